"""Labels that are not one class: several labels of an example, or numbers, from the columns that `data.label` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite, isnan, nan
from typing import Any

import numpy as np

from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.labelled import Values
from stockpot.streams.spec import DataSpec

_USUAL = ("label", "labels")  # columns that need no naming
Cells = Sequence[Any]  # of one row: what each of the columns holds


def value_columns(data: DataSpec, features: Any, where: str) -> list[str]:
    """The columns that hold an example's labels. Raises StockpotError, starting with `where`, if one is missing."""
    names = list(features)
    wanted = [data.label] if isinstance(data.label, str) else data.label
    if wanted is None:
        wanted = [name for name in _USUAL if name in names][:1]
        if not wanted:
            raise StockpotError(f"{where}: data.label: name the column, or a list of columns. Columns: {names}.")
    for column in wanted:
        if column not in names:
            hint = did_you_mean(column, names)
            raise StockpotError(f"{where}: data.label: there is no column {column!r}.{hint} Columns: {names}.")
    return wanted


class ValueReader:
    """Makes rows of numbers of what the label columns hold, the same for both parts of a data set.

    `regression`: a number in each column, or one column with lists of numbers. `multi_label_classification`: 0, 1, true
    or false in each column; or one column with lists of names or numbers of labels, or of a 0 or 1 for each label.
    """

    def __init__(self, data: DataSpec, columns: list[str], features: Any, where: str) -> None:
        self._regression = data.problem == "regression"
        self._columns, self._where = columns, f"{where}: data.label"
        self._listed = isinstance(data.label, list)
        inner = getattr(features[columns[0]], "feature", None)  # of a list
        self._feature_names: list[str] = list(getattr(inner, "names", None) or [])

    def read(self, parts: Mapping[str, tuple[str, Sequence[int], Sequence[Cells]]]) -> tuple[list[str], list[Values]]:
        """The names of the labels or numbers, and the values (N, names) of each part.

        Args:
            parts: for each part the place for messages, the number of each row, and its cells.

        Raises:
            StockpotError: a cell holds something else; the message names its row.
        """
        first = next(cells for _, _, rows in parts.values() for cells in rows)
        if len(self._columns) == 1 and isinstance(first[0], list | tuple):
            return self._lists(parts)
        if len(self._columns) == 1 and not self._regression and not self._listed:
            raise StockpotError(
                f"{self._where}: column {self._columns[0]!r} holds one class for each example, such as {first[0]!r}: "
                "drop data.problem_type, or give a column of lists, or a list of columns with a 0 or 1 for each label."
            )
        values = [
            np.array(
                [self._row(cells, place, number) for number, cells in zip(numbers, rows, strict=True)], np.float32
            ).reshape(len(rows), len(self._columns))
            for place, numbers, rows in parts.values()
        ]
        return list(self._columns), values

    def _row(self, cells: Cells, place: str, number: int) -> list[float]:
        row = [self._cell(cell, column, place, number) for cell, column in zip(cells, self._columns, strict=True)]
        if all(map(isnan, row)):
            raise StockpotError(f"{place}, row {number}: it has no label; fix the row, or leave it out.")
        return row

    def _cell(self, cell: Any, column: str, place: str, number: int) -> float:
        """The number in a cell; NaN for an empty one, which is not learnt from."""
        if cell is None or (isinstance(cell, float) and isnan(cell)):
            return nan
        if isinstance(cell, int | float) and isfinite(cell) and (self._regression or cell in (0, 1)):
            return float(cell)
        wanted = "a number" if self._regression else "0 or 1"
        raise StockpotError(
            f"{place}, row {number}: data.label: column {column!r} holds {_shown(cell)}, not {wanted}; fix the row, or "
            "leave it out."
        )

    def _lists(self, parts: Mapping[str, tuple[str, Sequence[int], Sequence[Cells]]]) -> tuple[list[str], list[Values]]:
        column, lists = self._columns[0], [cells[0] for _, _, rows in parts.values() for cells in rows]
        for place, numbers, rows in parts.values():
            for number, (cell,) in zip(numbers, rows, strict=True):
                if not isinstance(cell, list | tuple):
                    raise StockpotError(
                        f"{place}, row {number}: data.label: column {column!r} holds {_shown(cell)}, not a list; fix "
                        "the row, or leave it out."
                    )
        if self._regression or _is_a_value_for_each_label(lists):
            return self._value_for_each(parts, len(lists[0]))
        entries = set(chain.from_iterable(lists))
        names = self._feature_names or self._label_names(entries)
        place_of = {name: index for index, name in enumerate(names)}
        arrays = []
        for place, numbers, rows in parts.values():
            values = np.zeros((len(rows), len(names)), np.float32)
            for index, (number, (cell,)) in enumerate(zip(numbers, rows, strict=True)):
                for entry in cell:
                    label = entry if isinstance(entry, int) else place_of.get(entry, -1)
                    if not 0 <= label < len(names):
                        raise StockpotError(
                            f"{place}, row {number}: data.label: {entry!r} is not one of its {len(names)} labels; fix "
                            "the row, or leave it out."
                        )
                    values[index, label] = 1
            arrays.append(values)
        return names, arrays

    def _value_for_each(
        self, parts: Mapping[str, tuple[str, Sequence[int], Sequence[Cells]]], width: int
    ) -> tuple[list[str], list[Values]]:
        column = self._columns[0]
        arrays = []
        for place, numbers, rows in parts.values():
            for number, (cell,) in zip(numbers, rows, strict=True):
                if len(cell) != width:
                    raise StockpotError(
                        f"{place}, row {number}: data.label: column {column!r} holds {len(cell)} values, the first row "
                        f"{width}; fix the row, or leave it out."
                    )
            values = [
                [self._cell(entry, column, place, number) for entry in cell]
                for number, (cell,) in zip(numbers, rows, strict=True)
            ]
            arrays.append(np.array(values, np.float32).reshape(len(rows), width))
        names = self._feature_names if len(self._feature_names) == width else [f"{column}_{n}" for n in range(width)]
        return names, arrays

    def _label_names(self, entries: set[Any]) -> list[str]:
        """The names of labels in lists: numbers from 0, or words, which are sorted."""
        if not entries:
            raise StockpotError(
                f"{self._where}: column {self._columns[0]!r} holds empty lists only: there is no label."
            )
        if all(isinstance(entry, int) and entry >= 0 for entry in entries):
            return [str(number) for number in range(max(entries) + 1)]
        if all(isinstance(entry, str) for entry in entries):
            return sorted(entries)
        odd = min(entries, key=lambda entry: (isinstance(entry, str), entry if isinstance(entry, int) else 0))
        raise StockpotError(
            f"{self._where}: column {self._columns[0]!r}: {odd!r} is not a label: lists hold names, or numbers from 0."
        )


def _is_a_value_for_each_label(lists: Sequence[Sequence[Any]]) -> bool:
    """Whether lists have a 0 or 1 for each label, and do not name the labels: numbers that name repeat in no list."""
    if any(isinstance(entry, float) or entry is None for each in lists for entry in each):
        return True
    width = len(lists[0])
    binary = all(len(each) == width and set(each) <= {0, 1} for each in lists)
    return width > 0 and binary and any(len(set(each)) < len(each) for each in lists)


def _shown(cell: Any) -> str:
    text = "nothing" if cell is None else repr(cell)
    return text if len(text) <= 40 else f"{text[:39]}…"
