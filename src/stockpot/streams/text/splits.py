"""A data set of text, opened: from the hub, a folder or a file, and which of its rows are for training and testing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.local import REWRITE
from stockpot.streams.source import open_hub
from stockpot.streams.spec import TUNING_SHARE, DataSpec

HELD_OUT = 10  # one in so many rows is held out, where the data have no test split
IMAGE_KEYS = ("image", "rotate", "permute", "in_memory")
Numbers = list[int]


def open_splits(data: DataSpec, where: str) -> dict[str, Any]:
    """The splits of the data set that `data` names; of a `.txt` file every line is a row.

    Raises StockpotError that says where it was asked for.
    """
    if data.path is None:
        raise StockpotError(f"{where}: no data set is named: give data.path, in the recipe or in the task.")
    for key in IMAGE_KEYS:
        if getattr(data, key) != DataSpec.model_fields[key].default:
            raise StockpotError(f"{where}: data.{key} is for images, not for text; drop the key.")
    splits = open_hub(data, where)
    for key, wanted in (("train_split", data.train_split), ("test_split", data.test_split)):
        if wanted is not None and wanted not in splits:
            hint = did_you_mean(wanted, splits)
            raise StockpotError(f"{where}: data.{key}: there is no split {wanted!r}.{hint} Splits: {list(splits)}.")
    if len(splits[data.train_split]) == 0:
        raise StockpotError(f"{where}: the split {data.train_split!r} of {data.path!r} is empty.")
    return dict(splits)


def parts(data: DataSpec, splits: dict[str, Any], where: str, tuning: bool) -> dict[str, tuple[str, Numbers]]:
    """`train` and `test` → a split and the numbers of its rows: the same in every run, whatever its seed.

    Without a test or validation split a tenth of the training rows is held out; with `tuning`, a fifth of what is
    trained on stands for the test part, which is not touched.
    """
    train = list(range(len(splits[data.train_split])))
    name = data.test_split or next((n for n in ("test", "validation") if n in splits and n != data.train_split), None)
    if name is None:
        name = data.train_split
        train, test = _held_out(train, HELD_OUT, where)
    else:
        test = list(range(len(splits[name])))
    if not tuning:
        return {"train": (data.train_split, train), "test": (name, test)}
    train, test = _held_out(train[: data.limit], TUNING_SHARE, where)
    return {"train": (data.train_split, train), "test": (data.train_split, test)}


def _held_out(numbers: Numbers, share: int, where: str) -> tuple[Numbers, Numbers]:
    if len(numbers) < 2:
        raise StockpotError(f"{where}: one row alone cannot be both trained on and tested on; name data.test_split.")
    drawn = np.random.default_rng(0).permutation(len(numbers))[: max(1, len(numbers) // share)]
    held = {numbers[index] for index in drawn}
    return [number for number in numbers if number not in held], sorted(held)


def columns_of(dataset: Any, columns: list[str], numbers: Numbers, place: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and these columns of the rows, in order; a class label is its name."""
    narrow = dataset.select_columns(columns)
    names: dict[str, list[str]] = {c: getattr(dataset.features[c], "names", None) or [] for c in columns}
    for start in range(0, len(numbers), 1000):
        some = numbers[start : start + 1000]
        try:
            read = narrow[some]
        except UnicodeDecodeError as error:
            bad = next(number for number in some if not _readable(narrow, number))
            raise StockpotError(f"{place}, row {bad}: it is not UTF-8 text; {REWRITE}") from error
        for position, number in enumerate(some):
            row = {column: read[column][position] for column in columns}
            yield number, {c: names[c][v] if names[c] and isinstance(v, int) and v >= 0 else v for c, v in row.items()}


def _readable(dataset: Any, number: int) -> bool:
    try:
        dataset[number]
    except UnicodeDecodeError:
        return False
    return True
