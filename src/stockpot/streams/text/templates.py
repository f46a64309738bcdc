"""A row as a string: one column, or several in a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from stockpot.errors import StockpotError, did_you_mean


@dataclass(frozen=True)
class Template:
    """Text around the values of columns: `parts` are (text, the column after it, or None)."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> list[str]:
        """The columns that are read, each once."""
        return list(dict.fromkeys(column for _, column in self.parts if column is not None))

    def __call__(self, row: Mapping[str, Any]) -> str:
        """The row as a string; raises StockpotError if a column holds neither text nor a number."""
        return "".join(text if column is None else text + _text(row[column], column) for text, column in self.parts)


def _text(value: Any, column: str) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    content = "nothing (null)" if value is None else f"a {type(value).__name__}, not text"
    raise StockpotError(f"column {column!r} holds {content}")


def open_template(wanted: str, columns: Sequence[str], key: str) -> Template:
    """The template in `wanted`: a column's name, or text with `{column}` fields, where `{{` is a brace.

    Raises StockpotError, starting with `key`, if a field is not a column, or is more than a plain name.
    """
    if wanted in columns:
        return Template((("", wanted),))
    try:
        parsed = [(text, name, spec, conversion) for text, name, spec, conversion in Formatter().parse(wanted)]
    except ValueError as error:
        raise StockpotError(
            f"{key}: {wanted!r} is not a template: {error}; to put a brace into the text, write it twice."
        ) from error
    if all(name is None for _, name, _, _ in parsed):
        raise StockpotError(
            f"{key}: {wanted!r} is neither a column nor a template with a {{column}} in it."
            f"{did_you_mean(wanted, columns)} Columns: {list(columns)}."
        )
    for _, name, spec, conversion in parsed:
        if name is None or (name in columns and not spec and not conversion):
            continue
        if spec or conversion or not name or any(mark in name for mark in ".["):
            raise StockpotError(
                f"{key}: in {wanted!r} a field may only be the plain name of a column, such as {{{columns[0]}}}. "
                f"Columns: {list(columns)}."
            )
        hint = did_you_mean(name, columns)
        raise StockpotError(f"{key}: there is no column {name!r}.{hint} Columns: {list(columns)}.")
    return Template(tuple((text, name) for text, name, _, _ in parsed))
