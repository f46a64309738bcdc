"""Data sets of images with classes: those of the hub, and the digits that scikit-learn brings along."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np

from stockpot.batches.losses import SINGLE_LABEL
from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.columns import PICTURES, survey
from stockpot.streams.hub import choose_test_split, open_hub, refuse_audio
from stockpot.streams.image_files import with_pictures
from stockpot.streams.labelled import (
    LabelledPart,
    LabelledSource,
    Labels,
    Values,
    label_problem,
    numbered_classes,
)
from stockpot.streams.recognition import class_reading
from stockpot.streams.spec import DataSpec
from stockpot.streams.values import ValueReader, value_columns


def open_images(data: DataSpec, where: str) -> LabelledSource:
    """Opens the data set of images that `data` names; raises StockpotError, starting with `where`, if it cannot."""
    if data.path != "digits":
        return _open_hub_images(data, where)
    for key in ("name", "revision", "image", "label", "problem_type", "train_split", "test_split"):
        if getattr(data, key) != DataSpec.model_fields[key].default:
            raise StockpotError(f"{where}: data.{key}: the bundled digits have no such choice; drop the key.")
    return _open_digits()


def _facts(path: str, train: LabelledPart, test: LabelledPart) -> dict[str, Any]:
    """Path, sizes, and a fingerprint of all labels and of eight images of each part: hashing all would be slow."""
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(part.labels.tobytes())
        for image in part.pick(np.unique(np.linspace(0, len(part.labels) - 1, 8).astype(np.int64))):
            digest.update(image.tobytes())
    return {"path": path, "train": len(train.labels), "test": len(test.labels), "fingerprint": digest.hexdigest()[:16]}


def hold_out(labels: Labels, where: str) -> tuple[Labels, Labels]:
    """Holds out a fifth of the rows of every class for testing: the same rows in every run, whatever its seed."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    try:
        train, test = train_test_split(rows, test_size=0.2, stratify=labels, random_state=0)
    except ValueError as error:
        raise StockpotError(
            f"{where}: the data have no test split, and too few examples to hold out a fifth of every class: "
            "name one with data.test_split."
        ) from error
    return np.sort(train), np.sort(test)


@cache
def read_digits() -> tuple[np.ndarray[Any, Any], Labels, list[str]]:
    """Pixels (1797, 8, 8), labels and the names of the classes of scikit-learn's digits, read once in a process."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels, labels = np.round(bundle.images * (255 / 16)).astype(np.uint8), bundle.target.astype(np.int64)
    for array in (pixels, labels):
        array.setflags(write=False)
    return pixels, labels, [str(name) for name in bundle.target_names]


def _open_digits() -> LabelledSource:
    from PIL import Image

    pixels, labels, names = read_digits()

    def part(rows: Labels) -> LabelledPart:
        return LabelledPart(
            lambda picked: [Image.fromarray(pixels[row]) for row in rows[np.asarray(picked)]], labels[rows]
        )

    train, test = map(part, hold_out(labels, "digits"))
    return LabelledSource([*names], train, test, _facts("digits", train, test))


def _open_hub_images(data: DataSpec, where: str) -> LabelledSource:
    splits = open_hub(data, where)
    train = splits[data.train_split]
    refuse_audio(train.features, where)
    _refuse_text(data, train, where)
    if data.image is not None and data.image not in train.features:
        hint = did_you_mean(data.image, train.features)
        raise StockpotError(
            f"{where}: data.image: there is no column {data.image!r}.{hint} Columns: {list(train.features)}."
        )
    if len(train) == 0:
        raise StockpotError(f"{where}: the split {data.train_split!r} of {data.path!r} is empty.")
    keys = class_reading(data, train, where).keys
    image = keys.get("image", "image")
    test_name = choose_test_split(data, splits)
    splits = {
        name: with_pictures(splits[name], image, data, f"{where}: {data.path}, split {name!r}")
        for name in dict.fromkeys((data.train_split, test_name or data.train_split))
    }
    if data.problem != SINGLE_LABEL:
        return _open_valued_images(data, splits, image, where)
    train, label = splits[data.train_split], keys["label"]
    _check_first_row(train[0], image, label, where)
    named = _names_of(list(splits.values()), label)

    def part(dataset: Any, rows: Labels | None = None) -> LabelledPart:
        labels = _read_labels(dataset, label, where, named)
        rows = np.arange(len(labels)) if rows is None else rows
        return _image_part(dataset, image, rows, labels[rows])

    if test_name is not None:
        parts = part(train), part(splits[test_name])
    else:
        kept, held_out = hold_out(_read_labels(train, label, where, named), where)
        parts = part(train, kept), part(train, held_out)
    highest = int(max(parts[0].labels.max(), parts[1].labels.max() if len(parts[1].labels) else 0))
    names = named or getattr(train.features[label], "names", None)
    classes = list(names) if names else numbered_classes(highest, f"{where}: data.label: column {label!r}")
    if min(int(part.labels.min()) for part in parts if len(part.labels)) < 0:
        raise StockpotError(f"{where}: some labels are −1: the split is not labelled; choose data.test_split.")
    return LabelledSource(classes, *parts, _facts(str(data.path), *parts))


def _open_valued_images(data: DataSpec, splits: Any, image: str, where: str) -> LabelledSource:
    """Images with several labels or numbers each; without a test split a fifth of the rows is held out."""
    train = splits[data.train_split]
    columns = value_columns(data, train.features, where)
    _check_image(train[0], image, where)
    test_split = choose_test_split(data, splits)
    if test_split is None:
        order, held_out = np.random.default_rng(0).permutation(len(train)), max(1, len(train) // 5)
        train_rows, test_rows = np.sort(order[held_out:]), np.sort(order[:held_out])
    else:
        train_rows, test_rows = np.arange(len(train)), np.arange(len(splits[test_split]))
    chosen = {"train": (data.train_split, train_rows), "test": (test_split or data.train_split, test_rows)}
    cells: dict[str, tuple[str, list[int], list[list[Any]]]] = {}
    for key, (split, rows) in chosen.items():
        table = splits[split].select_columns(columns).select(rows)
        values = [table[column] for column in columns]
        cells[key] = (
            f"{where}: {data.path}, split {split!r}",
            rows.tolist(),
            [list(row) for row in zip(*values, strict=True)],
        )
    names, arrays = ValueReader(data, columns, train.features, where).read(cells)
    parts = {
        key: _image_part(splits[split], image, rows, labels)
        for (key, (split, rows)), labels in zip(chosen.items(), arrays, strict=True)
    }
    return LabelledSource(names, parts["train"], parts["test"], _facts(str(data.path), parts["train"], parts["test"]))


def _image_part(dataset: Any, image: str, rows: Labels, labels: Labels | Values) -> LabelledPart:
    return LabelledPart(lambda picked: dataset[[int(row) for row in rows[np.asarray(picked)]]][image], labels)


def _refuse_text(data: DataSpec, dataset: Any, where: str) -> None:
    """Raises StockpotError if the data hold texts but no images, and the recipe does not say that texts are meant."""
    columns = survey(dataset)
    pictures = any(column.content in PICTURES for column in columns.values())
    texts = [name for name, column in columns.items() if column.content in ("texts", "words")]
    chats = [name for name in columns if name == "messages"]
    if data.image is None and not pictures and "image" not in columns and (texts or chats):
        raise StockpotError(
            f"{where}: {data.path!r} holds texts ({', '.join(texts or chats)}), not images: to classify them, name "
            "their column with data.text; to continue them, set scenario: language."
        )


def _names_of(splits: list[Any], label: str) -> list[str]:
    """The names of the classes where labels are strings, sorted; empty where they are numbers."""
    values = {value for split in splits for value in split.unique(label) if isinstance(value, str)}
    return sorted(value for value in values if value)


def _read_labels(dataset: Any, label: str, where: str, names: list[str]) -> Labels:
    if names:
        numbers = {name: number for number, name in enumerate(names)}
        return np.array([numbers.get(value, -1) for value in dataset[label]], dtype=np.int64)
    try:
        return np.asarray(dataset[label], dtype=np.int64)
    except (TypeError, ValueError) as error:
        raise StockpotError(f"{where}: data.label: some values of column {label!r} are not class numbers.") from error


def _check_first_row(row: dict[str, Any], image: str, label: str, where: str) -> None:
    if isinstance(row[label], bool) or not isinstance(row[label], int | str):
        problem = label_problem(row[label])
        state = f": {problem}" if problem else " does not hold class numbers"
        raise StockpotError(f"{where}: data.label: column {label!r}{state}.")
    _check_image(row, image, where)


def _check_image(row: dict[str, Any], image: str, where: str) -> None:
    if not hasattr(row[image], "convert"):
        raise StockpotError(f"{where}: data.image: column {image!r} does not hold images.")
