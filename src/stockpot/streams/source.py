"""A data set, opened: images and labels of a training and a test part, not yet narrowed or processed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.local import is_data, open_file, refuse_encoding
from stockpot.streams.spec import DataSpec

Labels = NDArray[np.int64]
MOST_CLASSES = 1_000_000  # larger labels number something else


@dataclass(frozen=True)
class Part:
    """Rows of one split: an image column that decodes when it is indexed, and the labels."""

    images: Any  # indexable by a list of row numbers through `pick`
    labels: Labels

    def pick(self, rows: NDArray[np.int64] | list[int]) -> list[Any]:
        """The PIL images of these rows."""
        return list(self.images(rows))


@dataclass(frozen=True)
class Source:
    """A data set: its class names (label → name), and its two parts."""

    classes: list[str]
    train: Part
    test: Part
    facts: dict[str, Any]


def _facts(path: str, train: Part, test: Part) -> dict[str, Any]:
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(part.labels.tobytes())
        for image in part.pick(np.unique(np.linspace(0, len(part.labels) - 1, 8).astype(np.int64))):
            digest.update(image.tobytes())
    return {"path": path, "train": len(train.labels), "test": len(test.labels), "fingerprint": digest.hexdigest()[:16]}


def open_source(data: DataSpec, where: str) -> Source:
    """Opens the data set that `data` names; raises StockpotError that says where it was asked for."""
    if data.path is None:
        raise StockpotError(f"{where}: no data set is named: give data.path, in the recipe or in the task.")
    if data.path != "digits":
        return _hub(data, where)
    for key in ("name", "revision", "image", "label", "train_split", "test_split"):
        if getattr(data, key) != DataSpec.model_fields[key].default:
            raise StockpotError(f"{where}: data.{key}: the bundled digits have no such choice; drop the key.")
    return _digits()


def _held_out(labels: Labels, where: str) -> tuple[Labels, Labels]:
    """A fifth of the rows of every class for testing: the same rows in every run, whatever its seed."""
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


def _digits() -> Source:
    from PIL import Image
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels = np.round(bundle.images * (255 / 16)).astype(np.uint8)
    labels = bundle.target.astype(np.int64)

    def part(rows: Labels) -> Part:
        return Part(lambda picked: [Image.fromarray(pixels[row]) for row in rows[np.asarray(picked)]], labels[rows])

    train, test = map(part, _held_out(labels, "digits"))
    return Source([str(name) for name in bundle.target_names], train, test, _facts("digits", train, test))


def open_hub(data: DataSpec, where: str) -> Any:
    """The splits of a data set of the hub, of a folder in its layout, or of one file.

    Raises StockpotError where there is none.
    """
    path = str(data.path)
    file = Path(path).expanduser()
    try:
        if file.is_file() or (is_data(file) and not file.is_dir()):
            return open_file(path, where)
        return _open_named(data, file, where)
    except Exception as error:
        refuse_encoding(error, where, path)
        raise


def _open_named(data: DataSpec, folder: Path, where: str) -> Any:
    import datasets

    path = str(data.path)
    if path.startswith((".", "/", "~")):
        if not folder.exists():
            raise StockpotError(f"{where}: data.path: {path}: there is no such folder.")
        path = str(folder)
    try:
        try:
            return datasets.load_dataset(path, name=data.name, revision=data.revision)
        except datasets.exceptions.DatasetGenerationError:
            if not Path(path).is_dir():
                raise
            return _apart(path, data.name)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StockpotError(
            f"{where}: the data set {data.path!r} could not be opened: {reason} "
            "(a hub name needs the network or a filled cache; a local folder needs the hub's layout)"
        ) from error


def _apart(path: str, name: str | None) -> Any:
    """The splits of a folder, each with column types of its own: a list empty in all of one split fits no other's."""
    import datasets

    builder = datasets.load_dataset_builder(path, name=name)
    return {
        str(split): datasets.load_dataset(str(builder.name), data_files={str(split): list(files)}, split=str(split))
        for split, files in builder.config.data_files.items()
    }


def _column(features: Any, wanted: str | None, key: str, kinds: tuple[str, ...], where: str) -> str:
    names = list(features)
    if wanted is not None:
        if wanted not in names:
            hint = did_you_mean(wanted, names)
            raise StockpotError(f"{where}: data.{key}: there is no column {wanted!r}.{hint} Columns: {names}.")
        return wanted
    found = [name for name in names if type(features[name]).__name__ in kinds]
    if not found and key in names:
        return key
    if len(found) != 1:
        state = f"columns {found} could all be it" if found else f"none of the columns {names} looks like it"
        raise StockpotError(f"{where}: data.{key}: {state}; name the column.")
    return str(found[0])


def _refuse_text(data: DataSpec, features: Any, where: str) -> None:
    """Raises StockpotError where the data hold texts and no images: the recipe has not said that it means them."""
    pictures = any(type(feature).__name__ == "Image" for feature in features.values())
    texts = [name for name, feature in features.items() if str(getattr(feature, "dtype", "")).endswith("string")]
    chats = [name for name in features if name == "messages"]
    if data.image is None and not pictures and "image" not in features and (texts or chats):
        raise StockpotError(
            f"{where}: {data.path!r} holds texts ({', '.join(texts or chats)}), no images: to classify them name their "
            "column, data.text; to continue them say scenario: language."
        )


def not_a_class(value: Any) -> str | None:
    """Why a label is not that of a class, where it looks like one of another kind of learning."""
    if isinstance(value, float):
        return f"{value!r} is a measured value, and regression is not learnt here: classes are whole numbers or names"
    if isinstance(value, list | tuple | dict):
        return "its labels are lists, and an example has one class here, not several"
    return None


def numbered(top: int, where: str) -> list[str]:
    """The names of classes that are numbers alone: 0 to `top`. Raises StockpotError where these are too many to be."""
    if top >= MOST_CLASSES:
        raise StockpotError(f"{where}: {top} is not the number of a class: they are counted from 0.")
    return [str(number) for number in range(top + 1)]


def _hub(data: DataSpec, where: str) -> Source:
    splits = open_hub(data, where)
    names = list(splits)
    for key, wanted in (("train_split", data.train_split), ("test_split", data.test_split)):
        if wanted is not None and wanted not in names:
            hint = did_you_mean(wanted, names)
            raise StockpotError(f"{where}: data.{key}: there is no split {wanted!r}.{hint} Splits: {names}.")
    train = splits[data.train_split]
    _refuse_text(data, train.features, where)
    image = _column(train.features, data.image, "image", ("Image",), where)
    label = _column(train.features, data.label, "label", ("ClassLabel",), where)
    named = getattr(train.features[label], "names", None)

    def part(dataset: Any, rows: Labels | None = None) -> Part:
        try:
            labels = np.asarray(dataset[label], dtype=np.int64)
        except (TypeError, ValueError) as error:
            raise StockpotError(
                f"{where}: data.label: some values of column {label!r} are no class numbers."
            ) from error
        rows = np.arange(len(labels)) if rows is None else rows
        return Part(lambda picked: dataset[[int(row) for row in rows[np.asarray(picked)]]][image], labels[rows])

    if len(train) == 0:
        raise StockpotError(f"{where}: the split {data.train_split!r} of {data.path!r} is empty.")
    first = train[0]
    if isinstance(first[label], bool) or not isinstance(first[label], int):
        reason = not_a_class(first[label])
        state = f": {reason}" if reason else " does not hold class numbers"
        raise StockpotError(f"{where}: data.label: column {label!r}{state}.")
    if not hasattr(first[image], "convert"):
        raise StockpotError(f"{where}: data.image: column {image!r} does not hold images.")
    test_name = data.test_split or next(
        (n for n in ("test", "validation") if n in names and n != data.train_split), None
    )
    if test_name is not None:
        parts = part(train), part(splits[test_name])
    else:
        kept, held_out = _held_out(part(train).labels, where)
        parts = part(train, kept), part(train, held_out)
    top = int(max(parts[0].labels.max(), parts[1].labels.max() if len(parts[1].labels) else 0))
    classes = list(named) if named else numbered(top, f"{where}: data.label: column {label!r}")
    if min(int(p.labels.min()) for p in parts if len(p.labels)) < 0:
        raise StockpotError(f"{where}: some labels are −1: the split is not labelled; choose data.test_split.")
    return Source(classes, *parts, _facts(str(data.path), *parts))
