"""The splits and rows of a data set of text: which of them are for training, and which for testing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stockpot.errors import StockpotError
from stockpot.streams.hub import choose_test_split, open_hub, refuse_audio
from stockpot.streams.local import AS_UTF8
from stockpot.streams.spec import TUNING_SHARE, DataSpec

_HELD_OUT_SHARE = 10  # one row in so many is held out, if the data have no test split
_IMAGE_KEYS = ("image", "rotate", "permute", "in_memory")
RowNumbers = list[int]


def open_splits(data: DataSpec, where: str) -> dict[str, Any]:
    """The splits of the data set that `data` names; of a `.txt` file every line is a row.

    Raises StockpotError, starting with `where`, if it cannot be opened, or a key of `data` is for images.
    """
    for key in _IMAGE_KEYS:
        if getattr(data, key) != DataSpec.model_fields[key].default:
            raise StockpotError(f"{where}: data.{key} is for images, not for text; drop the key.")
    splits = open_hub(data, where)
    if len(splits[data.train_split]) == 0:
        raise StockpotError(f"{where}: the split {data.train_split!r} of {data.path!r} is empty.")
    refuse_audio(splits[data.train_split].features, where)
    return dict(splits)


def part_rows(data: DataSpec, splits: dict[str, Any], where: str, tuning: bool) -> dict[str, tuple[str, RowNumbers]]:
    """`train` and `test` → a split and the numbers of its rows: the same in every run, whatever its seed.

    Without a test or validation split a tenth of the training rows is held out. With `tuning`, a fifth of the training
    rows is the test part, and the real test part is not touched.
    """
    train = list(range(len(splits[data.train_split])))
    name = choose_test_split(data, splits)
    if name is None:
        name = data.train_split
        train, test = _hold_out(train, _HELD_OUT_SHARE, where)
    else:
        test = list(range(len(splits[name])))
    if not tuning:
        return {"train": (data.train_split, train), "test": (name, test)}
    train, test = _hold_out(train[: data.limit], TUNING_SHARE, where)
    return {"train": (data.train_split, train), "test": (data.train_split, test)}


def _hold_out(numbers: RowNumbers, share: int, where: str) -> tuple[RowNumbers, RowNumbers]:
    if len(numbers) < 2:
        raise StockpotError(f"{where}: one row cannot be used for both training and testing; name data.test_split.")
    drawn = np.random.default_rng(0).permutation(len(numbers))[: max(1, len(numbers) // share)]
    held_out = {numbers[index] for index in drawn}
    return [number for number in numbers if number not in held_out], sorted(held_out)


def read_columns(
    dataset: Any, columns: list[str], numbers: RowNumbers, place: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and these columns of each row, in order; a class label is given by its name."""
    narrow = dataset.select_columns(columns)
    names: dict[str, list[str]] = {c: getattr(dataset.features[c], "names", None) or [] for c in columns}
    for start in range(0, len(numbers), 1000):
        chunk = numbers[start : start + 1000]
        try:
            values = narrow[chunk]
        except UnicodeDecodeError as error:
            bad = next(number for number in chunk if not _is_readable(narrow, number))
            raise StockpotError(f"{place}, row {bad}: it is not UTF-8 text; {AS_UTF8}") from error
        for position, number in enumerate(chunk):
            row = {column: values[column][position] for column in columns}
            yield number, {c: names[c][v] if names[c] and isinstance(v, int) and v >= 0 else v for c, v in row.items()}


def _is_readable(dataset: Any, number: int) -> bool:
    try:
        dataset[number]
    except UnicodeDecodeError:
        return False
    return True
