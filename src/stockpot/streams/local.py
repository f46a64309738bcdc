"""Data sets that are one file on this machine, and what is wrong with files of text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError

BUILDERS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text", ".parquet": "parquet",
    ".ndjson": "json", ".arrow": "arrow",
}  # fmt: skip
SAMPLE_BY = {"line": "line", "paragraph": "paragraph", "file": "document"}  # `each` of a recipe → `datasets`' word
_SETTINGS = {".tsv": {"delimiter": "\t"}}
AS_UTF8 = "convert it to UTF-8, for example with `iconv -f latin1 -t utf-8`."


def is_data(file: Path) -> bool:
    """Whether a file's name ends like that of a data set."""
    return file.suffix.lower() in BUILDERS


def open_file(path: str, where: str, each: str | None = None) -> Any:
    """The splits of a data set that is one file; `each` is what one text of a .txt file is, by default a line.

    Raises StockpotError, starting with `where`, if it cannot be read.
    """
    import datasets

    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if not file.is_file():
        raise StockpotError(f"{where}: data.path: {path}: there is no such file.")
    if suffix not in BUILDERS:
        raise StockpotError(
            f"{where}: data.path: {path}: files that end in {suffix!r} are not supported; convert it to one of "
            f"{', '.join(BUILDERS)}, or name a folder in the hub's layout."
        )
    settings = _SETTINGS.get(suffix, {})
    if BUILDERS[suffix] == "text" and each is not None:
        settings = {"sample_by": SAMPLE_BY[each]}
    try:
        return datasets.load_dataset(BUILDERS[suffix], data_files=str(file), **settings)
    except Exception as error:
        if not file.stat().st_size:
            raise StockpotError(f"{where}: {path} is empty.") from error
        refuse_encoding(error, where, path)
        cause = list(_causes(error))[-1]
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        row = _broken_row(file)
        place, remedy = ("", "") if row is None else (f", row {row}", "; fix the row, or leave it out.")
        raise StockpotError(f"{where}: {path}{place} could not be read as {suffix[1:]}: {reason}{remedy}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _broken_row(file: Path) -> int | None:
    """The first line of a .jsonl file that is not JSON, from 0."""
    if file.suffix.lower() not in (".jsonl", ".ndjson"):
        return None
    for number, line in enumerate(file.read_bytes().splitlines()):
        try:
            json.loads(line)
        except ValueError:
            return number
    return None


def refuse_encoding(error: Exception, where: str, path: str | None) -> None:
    """Raises a StockpotError of one line if the cause of `error` is text that is not UTF-8."""
    for cause in _causes(error):
        message = str(cause).lower()
        if isinstance(cause, UnicodeDecodeError) or "invalid utf" in message or "encoding in string" in message:
            place = Path(str(path)).expanduser()
            files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if is_data(file))
            lines = (line for file in files if (line := _foreign_line(file)))
            raise StockpotError(f"{where}: {next(lines, f'{path}: it is not UTF-8 text')}; {AS_UTF8}") from error


def _foreign_line(file: Path) -> str | None:
    """The first line of a file that is not UTF-8; lines are counted from 1, as editors do."""
    if file.suffix.lower() in (".parquet", ".arrow"):
        return None
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"{file}, line {number}: it is not UTF-8 text"
    return None
