"""A data set with labels, opened: inputs and labels of a training and a test part, not yet narrowed or processed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockpot.errors import StockpotError

Labels = NDArray[np.int64]  # the class of each example
Values = NDArray[np.float32]  # (N, names): several labels, 0 or 1, or numbers; NaN where none is known
_MOST_CLASSES = 1_000_000  # larger whole numbers are something other than classes


@dataclass(frozen=True)
class LabelledPart:
    """The rows of one part: inputs (PIL images or strings), read when they are picked, and their labels."""

    read: Callable[[Labels | Sequence[int]], Sequence[Any]]  # row numbers → inputs
    labels: Labels | Values

    def pick(self, rows: Labels | Sequence[int]) -> list[Any]:
        """The inputs of these rows."""
        return list(self.read(rows))


@dataclass(frozen=True)
class LabelledSource:
    """A data set: the names of its classes, labels or numbers, its two parts, and `facts`: path, sizes, fingerprint."""

    classes: list[str]
    train: LabelledPart
    test: LabelledPart
    facts: dict[str, Any]


def label_problem(value: Any) -> str | None:
    """Why a label is not a class but the target of another kind of learning; None where it may be a class."""
    if isinstance(value, float):
        return f"{value!r} is not a class but a number: to learn numbers, set data.problem_type: regression"
    if isinstance(value, list | tuple):
        return (
            "its labels are lists: where an example may have several labels, set data.problem_type: "
            "multi_label_classification"
        )
    if isinstance(value, dict):
        boxes = {"bbox", "boxes", "bboxes"} & value.keys()
        if boxes:
            return f"its labels are boxes ({boxes.pop()}): object detection is not supported, an example needs a class"
        return "its labels are blocks of several values; name columns of labels or numbers"
    if hasattr(value, "convert"):
        return "its labels are images: segmentation is not supported, an example needs a class"
    return None


def numbered_classes(highest: int, where: str) -> list[str]:
    """The names of classes that have only numbers: 0 to `highest`. Raises StockpotError where it is too high."""
    if highest >= _MOST_CLASSES:
        raise StockpotError(f"{where}: {highest} is not a class number: classes are counted from 0.")
    return [str(number) for number in range(highest + 1)]


def several_columns(where: str) -> StockpotError:
    """The error for a list of label columns where an example has one class."""
    return StockpotError(
        f"{where}: data.label: an example has one class, in one column; for a list of columns set data.problem_type: "
        "multi_label_classification, or regression."
    )
