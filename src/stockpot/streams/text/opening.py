"""A data set of text, opened: from the hub, a folder or a file, and which of its rows are for training and testing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.source import open_hub
from stockpot.streams.spec import TUNING_SHARE, DataSpec

BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text", ".parquet": "parquet"}
HELD_OUT = 10  # one in so many rows is held out, where the data have no test split
IMAGE_KEYS = ("image", "rotate", "permute", "in_memory")
REWRITE = "write it again as UTF-8, for example with `iconv -f latin1 -t utf-8`."
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
    try:
        file = Path(data.path).expanduser()
        splits = _open_file(file, data, where) if file.suffix in BUILDERS else open_hub(data, where)
    except Exception as error:
        _refuse_encoding(error, where, data.path)
        raise
    for key, wanted in (("train_split", data.train_split), ("test_split", data.test_split)):
        if wanted is not None and wanted not in splits:
            hint = did_you_mean(wanted, splits)
            raise StockpotError(f"{where}: data.{key}: there is no split {wanted!r}.{hint} Splits: {list(splits)}.")
    if len(splits[data.train_split]) == 0:
        raise StockpotError(f"{where}: the split {data.train_split!r} of {data.path!r} is empty.")
    return dict(splits)


def _open_file(file: Path, data: DataSpec, where: str) -> Any:
    import datasets

    if not file.is_file():
        raise StockpotError(f"{where}: data.path: {data.path}: there is no such file.")
    try:
        return datasets.load_dataset(BUILDERS[file.suffix], data_files=str(file))
    except Exception as error:
        if not file.stat().st_size:
            raise StockpotError(f"{where}: {data.path} is empty.") from error
        _refuse_encoding(error, where, data.path)
        cause = list(_causes(error))[-1]
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        row = _broken_row(file)
        place, remedy = ("", "") if row is None else (f", row {row}", "; mend the row, or leave it out.")
        kind = file.suffix[1:]
        raise StockpotError(f"{where}: {data.path}{place} could not be read as {kind}: {reason}{remedy}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def _broken_row(file: Path) -> int | None:
    """The first line of a .jsonl file that is no JSON, from 0."""
    if file.suffix != ".jsonl":
        return None
    for number, line in enumerate(file.read_bytes().splitlines()):
        try:
            json.loads(line)
        except ValueError:
            return number
    return None


def _refuse_encoding(error: Exception, where: str, path: str | None) -> None:
    """Raises one clear line where text that is not UTF-8 is behind an error."""
    for cause in _causes(error):
        said = str(cause).lower()
        if isinstance(cause, UnicodeDecodeError) or "invalid utf" in said or "encoding in string" in said:
            at = Path(str(path)).expanduser()
            files = [at] if at.is_file() else sorted(file for file in at.rglob("*") if file.suffix in BUILDERS)
            bad = next((found for file in files if (found := _foreign_line(file))), f"{path}: it is not UTF-8 text")
            raise StockpotError(f"{where}: {bad}; {REWRITE}") from error


def _foreign_line(file: Path) -> str | None:
    """Which line of a file is the first that is not UTF-8, from 1, as editors count."""
    if file.suffix == ".parquet":
        return None
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"{file}, line {number}: it is not UTF-8 text"
    return None


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
