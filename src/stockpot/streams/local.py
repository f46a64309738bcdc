"""A data set that is one file on this machine, and what is wrong with files of text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError

BUILDERS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text", ".parquet": "parquet",
}  # fmt: skip
_SETTINGS = {".tsv": {"delimiter": "\t"}}
REWRITE = "write it again as UTF-8, for example with `iconv -f latin1 -t utf-8`."


def is_data(file: Path) -> bool:
    """Whether a file's name says that it is a data set by itself."""
    return file.suffix.lower() in BUILDERS


def open_file(path: str, where: str) -> Any:
    """The splits of a data set that is one file. Raises StockpotError that says where it was asked for."""
    import datasets

    file = Path(path).expanduser()
    kind = file.suffix.lower()
    if not file.is_file():
        raise StockpotError(f"{where}: data.path: {path}: there is no such file.")
    if kind not in BUILDERS:
        raise StockpotError(
            f"{where}: data.path: {path}: a file that ends in {kind!r} is not read; write it as one that ends in "
            f"{', '.join(BUILDERS)}, or name a folder in the hub's layout."
        )
    try:
        return datasets.load_dataset(BUILDERS[kind], data_files=str(file), **_SETTINGS.get(kind, {}))
    except Exception as error:
        if not file.stat().st_size:
            raise StockpotError(f"{where}: {path} is empty.") from error
        refuse_encoding(error, where, path)
        cause = list(_causes(error))[-1]
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        row = _broken_row(file)
        place, remedy = ("", "") if row is None else (f", row {row}", "; mend the row, or leave it out.")
        raise StockpotError(f"{where}: {path}{place} could not be read as {kind[1:]}: {reason}{remedy}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def _broken_row(file: Path) -> int | None:
    """The first line of a .jsonl file that is no JSON, from 0."""
    if file.suffix.lower() != ".jsonl":
        return None
    for number, line in enumerate(file.read_bytes().splitlines()):
        try:
            json.loads(line)
        except ValueError:
            return number
    return None


def refuse_encoding(error: Exception, where: str, path: str | None) -> None:
    """Raises one clear line where text that is not UTF-8 is behind an error."""
    for cause in _causes(error):
        said = str(cause).lower()
        if isinstance(cause, UnicodeDecodeError) or "invalid utf" in said or "encoding in string" in said:
            at = Path(str(path)).expanduser()
            files = [at] if at.is_file() else sorted(file for file in at.rglob("*") if is_data(file))
            bad = next((found for file in files if (found := _foreign_line(file))), f"{path}: it is not UTF-8 text")
            raise StockpotError(f"{where}: {bad}; {REWRITE}") from error


def _foreign_line(file: Path) -> str | None:
    """Which line of a file is the first that is not UTF-8, from 1, as editors count."""
    if file.suffix.lower() == ".parquet":
        return None
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"{file}, line {number}: it is not UTF-8 text"
    return None
