"""What the columns of a data set hold, told from their types and a sample of their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stockpot.streams.layouts import IMAGE_ENDINGS
from stockpot.streams.sampling import evenly_spaced_rows

Content = Literal[
    "images",  # pictures, by the column's type
    "names of image files",
    "image bytes",  # encoded pictures, without the column's type
    "messages",  # lists of {role, content}
    "ShareGPT turns",  # lists of {from, value}
    "classes",  # a ClassLabel
    "words",  # few short strings that come again and again
    "texts",
    "whole numbers",
    "numbers",
    "other",
]
PICTURES: tuple[Content, ...] = ("images", "names of image files", "image bytes")
_ENCODED = {"bytes", "path"}  # of a picture
_MOST = 0.9  # of the rows that were looked at hold what the column is taken for
_SAMPLE = 200  # rows that are looked at
_LONGEST_WORD = 60  # characters; longer strings are not the name of a class


@dataclass(frozen=True)
class DataColumn:
    """One column: its name, what it holds, and in how many values the rows that were looked at differ."""

    name: str
    content: Content
    distinct: int = 0
    rows: int = 0

    @property
    def may_be_classes(self) -> bool:
        """Whether its values come again, as the classes of examples do."""
        return self.content in ("classes", "words") or (
            self.content == "whole numbers" and 2 * self.distinct <= self.rows
        )


def survey(dataset: Any) -> dict[str, DataColumn]:
    """What each column of a split holds. Pictures are not decoded."""
    features = dataset.features
    columns = {name: DataColumn(name, "images") for name in features if _type(features[name]) == "Image"}
    plain = [name for name in features if name not in columns and _type(features[name]) not in ("Audio", "Video")]
    rows = evenly_spaced_rows(len(dataset), _SAMPLE).tolist() if len(dataset) else []
    for name in plain:
        values = _sample(dataset, name, rows)
        content: Content = "classes" if getattr(features[name], "names", None) else _content(values)
        distinct = len({*map(str, values)})
        if content == "texts" and 2 * distinct <= len(values) and max(map(len, values)) <= _LONGEST_WORD:
            content = "words"
        columns[name] = DataColumn(name, content, distinct, len(values))
    return {name: columns.get(name, DataColumn(name, "other")) for name in features}


def _sample(dataset: Any, name: str, rows: Sequence[int]) -> list[Any]:
    """The values of a column in these rows that are not empty."""
    try:
        values = dataset.select_columns([name])[rows][name] if rows else []
    except UnicodeDecodeError:  # the row is named when it is read
        return ["�"]
    return [value for value in values if value is not None and value != ""]


def _type(feature: Any) -> str:
    return type(feature).__name__


def _content(values: Sequence[Any]) -> Content:
    tests: dict[Content, Callable[[Any], bool]] = {
        "names of image files": lambda value: isinstance(value, str) and value.lower().endswith(IMAGE_ENDINGS),
        "texts": lambda value: isinstance(value, str),
        "whole numbers": lambda value: isinstance(value, int),
        "numbers": lambda value: isinstance(value, int | float),
        "image bytes": lambda value: isinstance(value, bytes) or (isinstance(value, dict) and {*value} == _ENCODED),
        "messages": lambda value: {"role", "content"} <= _keys_of_turns(value),
        "ShareGPT turns": lambda value: {"from", "value"} <= _keys_of_turns(value),
    }
    most = _MOST * len(values)  # a bad row is named when it is read
    fitting = (content for content, holds in tests.items() if sum(map(holds, values)) >= most)
    return next(fitting, "other") if values else "other"


def _keys_of_turns(value: Any) -> set[str]:
    """The keys of a list of structures; `datasets` may make a structure of lists of it."""
    if isinstance(value, dict):
        return {*value} if all(isinstance(each, list) for each in value.values()) else set()
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return {*value[0]}
    return set()
