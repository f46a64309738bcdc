"""Data sets from a local folder in the hub's layout, as `datasets.load_dataset` opens them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stockpot.errors import StockpotError
from stockpot.models.processor import PlainProcessor
from stockpot.streams.classified import ClassifiedStream
from stockpot.streams.images import open_images
from stockpot.streams.readers import ImageReader
from stockpot.streams.spec import DataSpec, TaskSpec
from stockpot.streams.text.text_source import open_text


def grey(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4), value, dtype=np.uint8))


def columns(labels: list[int], **more: list[Any]) -> dict[str, list[Any]]:
    return {"image": [grey(10 * number) for number in range(len(labels))], "label": labels, **more}


def open_folder(folder: Path, **settings: Any) -> Any:
    return open_images(DataSpec(path=str(folder), **settings), "task 'a'")


def test_columns_are_found_by_what_they_hold(hub_folder: Callable[..., Path]) -> None:
    pictures = [grey(10 * number) for number in range(4)]
    folder = hub_folder({part: {"picture": pictures, "kind": [0, 1, 1, 0], "year": [1, 2, 3, 4]}
                         for part in ("train", "test")}, kind=["cat", "dog"])  # fmt: skip
    source = open_folder(folder)
    assert source.classes == ["cat", "dog"]
    assert source.train.labels.tolist() == [0, 1, 1, 0]
    assert [np.asarray(image)[0, 0] for image in source.train.pick([3, 1])] == [30, 10]


def test_two_label_columns_must_be_chosen_from(hub_folder: Callable[..., Path]) -> None:
    folder = hub_folder(
        {part: columns([0, 1, 0], coarse=[1, 1, 0]) for part in ("train", "test")}, label=["a", "b"], coarse=["x", "y"]
    )
    with pytest.raises(
        StockpotError, match=r"task 'a': data\.label: there are several such columns, \['label', 'coarse'\]"
    ):
        open_folder(folder)
    assert open_folder(folder, label="coarse").classes == ["x", "y"]
    with pytest.raises(StockpotError, match=r"no column 'corse'\. Did you mean 'coarse'\?"):
        open_folder(folder, label="corse")


def test_a_split_that_does_not_exist_is_an_error_with_the_names(hub_folder: Callable[..., Path]) -> None:
    folder = hub_folder({part: columns([0, 1]) for part in ("train", "test")}, label=["a", "b"])
    with pytest.raises(StockpotError, match=r"data\.test_split: there is no split 'tst'\. Did you mean 'test'"):
        open_folder(folder, test_split="tst")
    with pytest.raises(StockpotError, match=r"data\.train_split: there is no split 'learn'.*\['train', 'test'\]"):
        open_folder(folder, train_split="learn")


def test_the_test_part_is_test_else_validation_else_held_out(hub_folder: Callable[..., Path]) -> None:
    def sizes(name: str, **settings: Any) -> tuple[int, int]:
        facts = open_folder(hub_folder({key: columns([0, 1] * n) for key, n in parts.items()}, name, label=["a", "b"]),
                            **settings).facts  # fmt: skip
        return facts["train"], facts["test"]

    parts = {"train": 5, "validation": 2, "test": 3}
    assert sizes("all-three") == (10, 6)
    assert sizes("chosen", test_split="validation") == (10, 4)
    parts = {"train": 5, "validation": 2}
    assert sizes("validation") == (10, 4)
    parts = {"train": 5}
    assert sizes("held-out") == (8, 2)


def test_a_held_out_part_has_a_fifth_of_each_class_and_nothing_of_the_rest(hub_folder: Callable[..., Path]) -> None:
    folder = hub_folder({"train": columns([0] * 5 + [1] * 20)}, label=["a", "b"])
    source = open_folder(folder)
    assert np.bincount(source.train.labels).tolist() == [4, 16]
    assert np.bincount(source.test.labels).tolist() == [1, 4]
    values = [int(np.asarray(image)[0, 0]) for part in (source.train, source.test)
              for image in part.pick(range(len(part.labels)))]  # fmt: skip
    assert sorted(values) == [10 * number for number in range(25)]


def test_too_few_examples_to_hold_out_is_an_error(hub_folder: Callable[..., Path]) -> None:
    folder = hub_folder({"train": columns([0, 1, 1])}, label=["a", "b"])
    with pytest.raises(StockpotError, match=r"too few examples to hold out.*data\.test_split"):
        open_folder(folder)


def test_labels_without_names_are_named_by_their_numbers(hub_folder: Callable[..., Path]) -> None:
    folder = hub_folder({"train": columns([0, 2, 2]), "test": columns([3, 0])})
    assert open_folder(folder).classes == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": ["cat", None]}, "some labels are −1: the split is not labelled"),
        ({"image": ["a cat", "a dog"]}, r"data\.image: column 'image' does not hold images"),
        (
            {"image": ["a.png", "b.png"]},
            r"split 'train', row 0: data\.image: column 'image' names 'a\.png', and there is",
        ),
        ({"label": [-1, -1]}, "some labels are −1"),
        ({"label": [1, None]}, r"data\.label: some values of column 'label' are not class numbers"),
    ],
)
def test_columns_of_another_kind_are_refused(change: dict, message: str, hub_folder: Callable[..., Path]) -> None:
    folder = hub_folder({part: {**columns([0, 1]), **change} for part in ("train", "test")})
    with pytest.raises(StockpotError, match=message):
        open_folder(folder)


def test_an_empty_task_is_an_error(hub_folder: Callable[..., Path]) -> None:
    folder = hub_folder({"train": columns([0, 0, 1]), "test": columns([1, 1])}, label=["a", "b"])
    task = TaskSpec(name="only-a", data=DataSpec(path=str(folder), classes=["a"]))
    with pytest.raises(StockpotError, match=r"task 'only-a': it is empty: the test part .* no example of its classes"):
        ClassifiedStream.open("class-incremental", DataSpec(), [task], [], ImageReader(PlainProcessor()))


def test_a_folder_without_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"data\.path: .*nowhere: there is no such folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(StockpotError, match=r"could not be opened.*local folder needs the hub's layout"):
        open_folder(tmp_path)


def test_a_fingerprint_follows_pixels_and_labels(hub_folder: Callable[..., Path]) -> None:
    def fingerprint(name: str, values: dict[str, list[Any]]) -> str:
        folder = hub_folder({"train": values, "test": values}, name, label=["a", "b"])
        return str(open_folder(folder).facts["fingerprint"])

    one = fingerprint("one", columns([0, 1, 1]))
    assert one == fingerprint("same", columns([0, 1, 1]))
    assert one != fingerprint("labels", columns([0, 1, 0]))
    assert one != fingerprint("pixels", {**columns([0, 1, 1]), "image": [grey(number) for number in (0, 10, 21)]})


def test_the_shared_mnist_opens_as_it_is(shared_data: Callable[[str], Path]) -> None:
    source = open_folder(shared_data("vision/mnist10k"))
    assert len(source.classes) == 10
    assert (source.facts["train"], source.facts["test"]) == (8000, 2000)
    assert source.train.pick([0])[0].size == (28, 28)


def test_grey_images_are_resized_and_made_colour_by_the_models_processor(shared_data: Callable[[str], Path]) -> None:
    from stockpot.models.pretrained import model_config
    from stockpot.models.processor import open_processor
    from stockpot.models.spec import ModelSpec

    model = ModelSpec(config={"model_type": "vit", "image_size": 12, "patch_size": 4})
    stream = ClassifiedStream.open(
        "class-incremental",
        DataSpec(path=str(shared_data("vision/mnist10k")), limit=3),
        [TaskSpec(name="a", data=DataSpec(classes=[1, 2]))],
        [],
        ImageReader(open_processor(model, model_config(model))),
    )
    pixels = stream.test(0).__getitems__(range(6))["pixel_values"]
    assert pixels.shape == (6, 3, 12, 12)
    assert torch.equal(pixels[:, 0], pixels[:, 1])
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert pixels.min() >= -1
    assert pixels.max() > 0.5  # white strokes
    assert -1 < pixels.mean() < -0.3  # on mostly black


def test_splits_whose_column_types_differ_are_opened_each_by_itself(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # As in MBPP: a list that is empty in all of one split has no type there.
    for split, more in (("train", pa.array([[]] * 2, pa.list_(pa.null()))), ("test", pa.array([["x"], []]))):
        pq.write_table(
            pa.table({"text": [f"{split} {n}" for n in range(2)], "more": more}), tmp_path / f"{split}.parquet"
        )
    source = open_text(DataSpec(path=str(tmp_path)), "task 'code'")
    assert (list(source.train.items), list(source.test.items)) == (["train 0", "train 1"], ["test 0", "test 1"])
    assert source.test.rows[0]["more"] == ["x"]
