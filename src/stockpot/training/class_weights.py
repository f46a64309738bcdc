"""`train.class_weights`: how much the examples of each class count in the cross-entropy of a classifier.

The weights belong to output rows, so that with `scenario: class-incremental` rehearsed examples of past classes have
theirs in every later task. Only the cross-entropy of the batches is weighted: what a method adds to it (distillation,
a penalty, the draws of der++ and A-GEM, a Fisher) is as its paper has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stockpot.batches.examples import TrainingData
from stockpot.errors import StockpotError, did_you_mean

CLASS_WEIGHTS = "class_weights"  # the key of `train`, which TrainingArguments do not have
BALANCED, NO_WEIGHTS = "balanced", "none"


def check_class_weights(value: Any, source: str) -> None:
    """Raises StockpotError for what is neither `balanced`, `none` nor weights above 0 by class."""
    if value is None or value in (BALANCED, NO_WEIGHTS):
        return
    if not isinstance(value, Mapping):
        hint = did_you_mean(value, [BALANCED, NO_WEIGHTS]) if isinstance(value, str) else ""
        raise StockpotError(
            f"{source}: should be {BALANCED}, {NO_WEIGHTS}, or a weight for each class, such as {{cat: 2.0}}, not "
            f"{value!r}.{hint}"
        )
    for name, weight in value.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight < math.inf:
            raise StockpotError(
                f"{source}.{name}: a weight should be a number above 0, not {weight!r}; to leave a class out, name the "
                "others in data.classes."
            )


def check_class_names(value: Any, classes: Iterable[str], source: str) -> None:
    """Raises StockpotError for a weight of a class that the stream does not have, and where it has no classes."""
    known = dict.fromkeys(classes)
    if value not in (None, NO_WEIGHTS) and not known:
        raise StockpotError(f"{source}: only examples with one class each can be weighed by class; leave it out.")
    for name in value if isinstance(value, Mapping) else ():
        if str(name) not in known:
            some = ", ".join(list(known)[:20]) + (", …" if len(known) > 20 else "")
            hint = did_you_mean(str(name), known)
            raise StockpotError(f"{source}: no task has a class {str(name)!r}.{hint} Classes: {some}.")


def row_weights(
    value: Any, tasks: Sequence[tuple[Sequence[str], Sequence[int]]], data: TrainingData, batches: int, rows: int
) -> Tensor | None:
    """The weight of each output row in a task's cross-entropy, (rows,) float64; None where all count alike.

    Equation: `balanced`: `w_c = N / (C · n_c)`, as scikit-learn has it, where n_c is how often class c is trained on in
    an epoch, N their sum and C the number of such classes: the mean weight of an example is 1.

    Args:
        value: of the key, as `check_class_weights` lets it pass.
        tasks: the classes of each task up to this one, and their rows; of tasks that share a row, the newest counts.
        data: what the task trains on: examples of a buffer among the new ones, or drawn into every batch.
        batches: in an epoch.
        rows: of the output layer.
    """
    if value is None or value == NO_WEIGHTS:
        return None
    weights = torch.ones(rows, dtype=torch.float64)
    if value == BALANCED:
        times = _times_trained_on(data, batches, rows)
        trained = times > 0
        weights[trained] = times.sum() / (trained.sum() * times[trained])
        return weights
    by_class = {str(name): float(weight) for name, weight in value.items()}
    for classes, class_rows in tasks:
        for name, row in zip(classes, class_rows, strict=True):
            weights[row] = by_class.get(name, 1.0)
    return weights


def _times_trained_on(data: TrainingData, batches: int, rows: int) -> Tensor:
    """How many examples of each row an epoch has, in the mean over the draws of rehearsed and of general ones."""
    stored = len(data.examples) - data.new - data.general
    parts = data.examples.labels.split([data.new, stored, data.general])
    drawn = (data.new, min(data.rehearsed_per_batch, stored) * batches, data.drawn_general)
    times = torch.zeros(rows, dtype=torch.float64)
    for labels, many in zip(parts, drawn, strict=True):
        if len(labels):
            times += labels.bincount(minlength=rows) * (many / len(labels))
    return times


def weights_note(value: Any, weights: Tensor, names: Sequence[str], labels: Tensor, task: str) -> str:
    """What a reader of the report must know: the smallest and the largest weight among the classes trained on."""
    trained = sorted(labels.unique().tolist(), key=lambda row: float(weights[row]))
    ends = [f"{float(weights[row]):.3g} ({names[row]})" for row in (trained[0], trained[-1])]
    return f"class weights of task {task!r}: {BALANCED if value == BALANCED else 'by class'}, {' to '.join(ends)}"
