"""The class weights of a task in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stockpot.batches.examples import TrainingData
from stockpot.runs.session import Session
from stockpot.streams.stream import Stream
from stockpot.training.class_weights import CLASS_WEIGHTS, check_class_names, row_weights, weights_note
from stockpot.training.job import epoch_batches


def check_weights(settings: Mapping[str, Any], stream: Stream) -> None:
    """Raises StockpotError where the settings weigh classes that no task of the stream has."""
    names = (
        [name for task in stream.tasks for name in task.classes] if stream.has_classes and stream.rows.compete else []
    )
    check_class_names(settings.get(CLASS_WEIGHTS), names, f"train.{CLASS_WEIGHTS}")


def weigh_classes(
    session: Session, settings: dict[str, Any], data: TrainingData, index: int
) -> tuple[Tensor | None, list[str]]:
    """The weight of each output row while task `index` (from 0) is trained, and the notes for the report."""
    value, stream = settings.get(CLASS_WEIGHTS), session.stream
    if value is None:
        return None, []
    seen = [(task.classes, task.rows) for task in stream.tasks[: index + 1]]
    batches = len(epoch_batches(data, settings, session.run.checkpoints(index), session.run.seed))
    weights = row_weights(value, seen, data, batches, session.rows(index))
    if weights is None:
        return None, []
    names = stream.rows.names
    return weights, [weights_note(value, weights, names, data.examples.labels, stream.tasks[index].name)]
