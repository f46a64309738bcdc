"""Which variants of the Fisher information a stream's tasks can have."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.importance.fisher import NOT_EXACT, NOT_PREDICTED, FisherKind
from stockpot.methods.base import TaskFacts


def problem_with_kind(kind: FisherKind | None, tasks: Sequence[TaskFacts]) -> str | None:
    """Why the tasks cannot have a Fisher of this kind: `exact` of token sequences, `predicted` of a regression."""
    if kind == "exact" and any(task.language for task in tasks):
        return NOT_EXACT
    if kind == "predicted" and any(task.problem == "regression" for task in tasks):
        return NOT_PREDICTED
    return None
