"""From PIL images to a model's input: by its own processor, or by plain scaling for a `build:` model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stockpot.errors import StockpotError, did_you_mean
from stockpot.models.named_adapter import file_home
from stockpot.models.spec import ModelSpec


@dataclass(frozen=True)
class PlainProcessor:
    """Images → (B, C, H, W): `size` resizes to a square, `channels` 1 or 3 converts to grey or colour.

    Equation: `(x − mean) / std`, x in 0…1 with `pad` rows and columns of 0 on each side. `mean` and `std` have one
    value, or one for each channel.
    """

    size: int | None = None
    channels: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    pad: int = 0

    def __call__(self, images: list[Any]) -> Tensor:
        """The images as one tensor; raises StockpotError if their shapes differ."""
        if self.channels is None:  # the values of palettes, alpha and bits are not intensities
            images = [image if image.mode in ("L", "RGB") else image.convert("RGB") for image in images]
        else:
            images = [image.convert("L" if self.channels == 1 else "RGB") for image in images]
        if self.size is not None:
            images = [image.resize((self.size, self.size)) for image in images]
        arrays = [np.asarray(image) for image in images]
        if len({array.shape for array in arrays}) > 1:
            raise StockpotError(
                "model.image_processor: images of different shapes cannot be one batch; give size and channels. "
                f"Shapes: {sorted({array.shape for array in arrays})[:3]}."
            )
        pixels = torch.from_numpy(np.stack(arrays)).float() / 255
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        return self._normalised(functional.pad(pixels, [self.pad] * 4) if self.pad else pixels)

    def save(self, folder: Path) -> None:
        """Writes nothing: the recipe holds all settings of this processor."""

    def _normalised(self, pixels: Tensor) -> Tensor:
        if (self.mean, self.std) == ((0.0,), (1.0,)):
            return pixels
        for key, values in (("image_mean", self.mean), ("image_std", self.std)):
            if len(values) not in (1, pixels.shape[1]):
                raise StockpotError(
                    f"model.image_processor.{key}: {len(values)} numbers for images of {pixels.shape[1]} channels; "
                    "give one number, or one for each channel."
                )
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std


@dataclass(frozen=True)
class TransformersProcessor:
    """A Transformers image processor; images are converted to grey or colour first, as the model expects."""

    processor: Any
    channels: int

    def __call__(self, images: list[Any]) -> Tensor:
        """The images as one tensor."""
        mode = "L" if self.channels == 1 else "RGB"
        images = [image if image.mode == mode else image.convert(mode) for image in images]
        if self.channels == 1:  # processors expect a channel axis
            images = [np.asarray(image)[..., None] for image in images]
        options = {"input_data_format": "channels_last"} if self.channels == 1 else {}
        try:
            output = self.processor(images=images, return_tensors="pt", **options)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StockpotError(f"model.image_processor: {(str(error) or repr(error)).splitlines()[0]}") from error
        return output["pixel_values"]  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """Writes preprocessor_config.json, which completes the model folder."""
        self.processor.save_pretrained(folder)


def open_processor(spec: ModelSpec, config: Any) -> PlainProcessor | TransformersProcessor:
    """The image processor of a model; `config` is its Transformers configuration, None for a `build:` model.

    Raises StockpotError for a setting that the processor does not have.
    """
    changes = spec.image_processor
    if spec.build is not None:
        return _plain(changes)
    channels = int(getattr(config, "num_channels", 3) or 3)
    if isinstance(changes, str):
        return TransformersProcessor(_auto(changes, spec), channels)
    home = file_home(spec, "preprocessor_config.json")
    processor = _auto(home.name, home) if home.name is not None else _vit(config, channels)
    for key, value in (changes or {}).items():
        if not hasattr(processor, key):
            hint = did_you_mean(key, vars(processor))
            raise StockpotError(f"model.image_processor.{key}: unknown key.{hint}")
        setattr(processor, key, value)
    return TransformersProcessor(processor, channels)


def _plain(changes: dict[str, Any] | str | None) -> PlainProcessor:
    if isinstance(changes, str):
        raise StockpotError("model.image_processor: a `build:` model takes settings (size, channels), not a name.")
    known = ("size", "channels", "image_mean", "image_std", "pad")
    settings = changes or {}
    for key in settings:
        if key not in known:
            raise StockpotError(
                f"model.image_processor.{key}: unknown key for a `build:` model.{did_you_mean(key, known)} "
                f"Known: {', '.join(known)}."
            )
    size, channels = settings.get("size"), settings.get("channels")
    if size is not None:
        _whole("size", size, 1)
    if channels not in (None, 1, 3) or isinstance(channels, bool):
        raise StockpotError(f"model.image_processor.channels: should be 1 (grey) or 3 (colour), not {channels!r}.")
    mean, std = (
        _numbers("image_mean", settings.get("image_mean", 0.0)),
        _numbers("image_std", settings.get("image_std", 1.0)),
    )
    if min(std) <= 0:
        raise StockpotError(f"model.image_processor.image_std: should be above 0, not {settings['image_std']!r}.")
    return PlainProcessor(size, channels, mean, std, _whole("pad", settings.get("pad", 0), 0))


def _whole(key: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StockpotError(f"model.image_processor.{key}: should be a number of pixels, not {value!r}.")
    return value


def _numbers(key: str, value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(number, bool) or not isinstance(number, int | float) for number in values):
        raise StockpotError(f"model.image_processor.{key}: should be a number, or one for each channel, not {value!r}.")
    if not all(math.isfinite(number) for number in values):
        raise StockpotError(f"model.image_processor.{key}: should be finite, not {value!r}.")
    return tuple(float(number) for number in values)


def _auto(name: str, spec: ModelSpec) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            name, revision=spec.revision or "main", trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if Path(name).expanduser().is_dir():
            reason = "the folder has no preprocessor_config.json that could be read."
        raise StockpotError(
            f"model.image_processor: {name}: {reason} Name another model's, or a folder with one: "
            "image_processor: NAME."
        ) from error


def _vit(config: Any, channels: int) -> Any:
    """The processor of a model built from a configuration, which has none: resize to its input size, scale to −1…1."""
    try:
        from transformers import ViTImageProcessorPil as ViTImageProcessor
    except ImportError:
        from transformers import ViTImageProcessor
    size = getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    half = [0.5] * channels
    return ViTImageProcessor(size={"height": height, "width": width}, image_mean=half, image_std=half)
