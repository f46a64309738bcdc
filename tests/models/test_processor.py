"""From PIL images to the model's input, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stockpot.errors import StockpotError
from stockpot.models.pretrained import model_config
from stockpot.models.processor import PlainProcessor, open_processor
from stockpot.models.spec import ModelSpec

GREY = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def opened(**model: Any) -> Any:
    spec = ModelSpec(**model)
    return open_processor(spec, model_config(spec))


def test_plain_pixels_are_divided_by_255() -> None:
    grey = PlainProcessor()([GREY, GREY])
    assert grey.shape == (2, 1, 8, 8)
    assert torch.equal(grey[0, 0], torch.from_numpy(np.array(GREY)).float() / 255)
    colour = PlainProcessor()([COLOUR])
    assert colour.shape == (1, 3, 8, 8)
    assert torch.equal(colour[0], torch.from_numpy(np.array(COLOUR)).permute(2, 0, 1).float() / 255)


def test_plain_settings_resize_and_change_channels() -> None:
    settings = {"size": 4, "channels": 3}
    pixels = opened(build="a:b", image_processor=settings)([GREY])
    assert pixels.shape == (1, 3, 4, 4)
    assert torch.equal(pixels[0, 0], pixels[0, 2])
    assert opened(build="a:b", image_processor={"channels": 1})([COLOUR]).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("mode", ["P", "RGBA", "1"])
def test_palettes_alpha_and_bits_become_colours(mode: str) -> None:
    image = COLOUR.convert(mode)
    expected = np.asarray(image.convert("RGB"))
    pixels = PlainProcessor()([image])
    assert torch.equal(pixels[0], torch.from_numpy(expected.copy()).permute(2, 0, 1).float() / 255)


def test_images_of_different_sizes_need_a_size() -> None:
    with pytest.raises(StockpotError, match=r"images of different shapes .* give size and channels"):
        PlainProcessor()([GREY, COLOUR])
    assert PlainProcessor(size=5, channels=1)([GREY, COLOUR.resize((3, 9))]).shape == (2, 1, 5, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sise": 3}, r"image_processor\.sise: unknown key for a `build:` model\. Did you mean 'size'\?"),
        ({"mean": 3}, r"image_processor\.mean: unknown key .* Known: size, channels"),
        ({"size": "x"}, r"image_processor\.size: should be a number of pixels, not 'x'"),
        ({"size": 0}, r"image_processor\.size: should be a number of pixels, not 0"),
        ({"channels": 2}, r"image_processor\.channels: should be 1 \(grey\) or 3 \(colour\), not 2"),
        ("google/vit", r"a `build:` model takes settings \(size, channels\), not a name"),
    ],
)
def test_a_wrong_plain_setting_is_an_error(settings: Any, message: str) -> None:
    with pytest.raises(StockpotError, match=message):
        opened(build="a:b", image_processor=settings)


def test_a_configured_model_gets_its_own_size_between_minus_one_and_one(vit: dict[str, Any]) -> None:
    pixels = opened(config=vit)([GREY.resize((20, 20)), COLOUR])
    assert pixels.shape == (2, 3, 8, 8)
    np.testing.assert_allclose(pixels[1], np.asarray(COLOUR).transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    assert torch.equal(pixels[0, 0], pixels[0, 1])  # grey became three equal channels


def test_a_grey_model_gets_one_channel(vit: dict[str, Any]) -> None:
    pixels = opened(config={**vit, "num_channels": 1})([GREY, COLOUR])
    assert pixels.shape == (2, 1, 8, 8)
    np.testing.assert_allclose(pixels[0, 0], np.asarray(GREY) / 127.5 - 1, atol=1e-6)


def test_settings_change_the_models_processor(vit: dict[str, Any]) -> None:
    settings = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0], "size": {"height": 4, "width": 6}}
    pixels = opened(config=vit, image_processor=settings)([COLOUR])
    assert pixels.shape == (1, 3, 4, 6)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert opened(config=vit, image_processor={"size": 4})([COLOUR]).shape == (1, 3, 4, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_maen": 0}, r"model\.image_processor\.image_maen: unknown key\. Did you mean 'image_mean'\?"),
        ({"size": "x"}, r"model\.image_processor: .*size"),
        ("nobody/nothing", r"model\.image_processor: nobody/nothing: "),
    ],
)
def test_a_wrong_setting_is_an_error(settings: Any, message: str, vit: dict[str, Any]) -> None:
    with pytest.raises(StockpotError, match=message):
        opened(config=vit, image_processor=settings)([COLOUR])


def test_a_saved_processor_is_the_one_that_was_used(vit: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    processor = opened(config=vit, image_processor={"image_mean": [0.1, 0.2, 0.3]})
    processor.save(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    torch.testing.assert_close(again([COLOUR], return_tensors="pt")["pixel_values"], processor([COLOUR]))


def test_a_model_folder_without_a_processor_says_so(vit: dict[str, Any], tmp_path: Path) -> None:
    from stockpot.models.start import start_model
    from stockpot.models.store import save_model

    spec = ModelSpec(config=vit)
    save_model(start_model(spec, 3, seed=0), tmp_path, spec, 3)
    with pytest.raises(StockpotError, match=r"has no preprocessor_config\.json.*image_processor: NAME"):
        opened(name=str(tmp_path))
    opened(config=vit).save(tmp_path)
    assert opened(name=str(tmp_path))([COLOUR]).shape == (1, 3, 8, 8)


def test_images_are_padded_with_black_and_then_normalised() -> None:
    settings = {"pad": 2, "image_mean": 0.25, "image_std": 0.5}
    plain = PlainProcessor()([GREY])
    pixels = opened(build="a:b", image_processor=settings)([GREY])
    assert pixels.shape == (1, 1, plain.shape[2] + 4, plain.shape[3] + 4)
    torch.testing.assert_close(pixels[:, :, 2:-2, 2:-2], (plain - 0.25) / 0.5)
    assert (pixels[:, :, :2] == -0.5).all() and (pixels[:, :, :, -2:] == -0.5).all()


def test_each_channel_has_its_mean_and_deviation() -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 1.0]
    plain = PlainProcessor()([COLOUR])
    pixels = opened(build="a:b", image_processor={"image_mean": mean, "image_std": std})([COLOUR])
    for channel in range(3):
        torch.testing.assert_close(pixels[:, channel], (plain[:, channel] - mean[channel]) / std[channel])
    with pytest.raises(StockpotError, match=r"image_mean: 3 numbers for images of 1 channels"):
        opened(build="a:b", image_processor={"image_mean": mean})([GREY])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_std": 0}, r"image_std: should be above 0, not 0"),
        ({"image_std": [0.5, -1]}, r"image_std: should be above 0"),
        ({"image_mean": "mean"}, r"image_mean: should be a number"),
        ({"image_mean": []}, r"image_mean: should be a number"),
        ({"image_mean": float("nan")}, r"image_mean: should be finite"),
        ({"pad": -1}, r"pad: should be a number of pixels"),
        ({"pad": 1.5}, r"pad: should be a number of pixels"),
    ],
)
def test_impossible_normalisations_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StockpotError, match=message):
        opened(build="a:b", image_processor=settings)
