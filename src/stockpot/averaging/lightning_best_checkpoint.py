"""A ModelCheckpoint that monitors a score must not choose weights between two averages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from stockpot.averaging.refusals import between_averages
from stockpot.averaging.sfa import SFA
from stockpot.errors import StockpotError


def refuse_monitor_between(trainer: Any, sfa: SFA) -> None:
    """Raises StockpotError, with the remedy, unless an average is due at every validation that is compared."""
    if _monitored(trainer):
        for step in _validations(trainer):
            if sfa.steps < step and not sfa.schedule.due(step):
                raise _refusal(trainer, step)


def check_compared(trainer: Any, sfa: SFA) -> None:
    """Raises StockpotError if weights that were not averaged at this step are about to be compared."""
    if _monitored(trainer) and sfa.last_average < sfa.steps:
        raise _refusal(trainer, sfa.steps)


def _monitored(trainer: Any) -> str | None:
    """The score by which a checkpoint callback chooses, if any does; `step` and `epoch` keep the latest."""
    savers = [callback for callback in trainer.checkpoint_callbacks if getattr(callback, "save_top_k", 0)]
    monitors = [getattr(callback, "monitor", None) for callback in savers]
    return next((monitor for monitor in monitors if monitor not in (None, "step", "epoch")), None)


def _validations(trainer: Any) -> Iterator[int]:
    """The optimizer steps after which the trainer validates, if epochs and batches are known beforehand."""
    batches, between, epochs = trainer.num_training_batches, trainer.val_check_batch, trainer.check_val_every_n_epoch
    total = trainer.estimated_stepping_batches
    if not trainer.enable_validation or None in (between, epochs) or math.inf in (batches, between, total):
        return
    accumulated = trainer.accumulate_grad_batches
    per_epoch = -(-batches // accumulated)
    for epoch in range(epochs - 1, -(-total // per_epoch), epochs):
        for batch in range(between, batches + 1, between):
            step = epoch * per_epoch + (per_epoch if batch == batches else batch // accumulated)
            if step <= total:
                yield step


def _refusal(trainer: Any, step: int) -> StockpotError:
    subject = f"ModelCheckpoint(monitor={_monitored(trainer)!r}) would compare"
    return between_averages(subject, step, "average at every validation (every=… steps), or drop monitor.")
