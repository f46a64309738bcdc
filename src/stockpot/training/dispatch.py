"""Which loop trains a task: the recipe's `loop`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stockpot.training.job import Job

Loop = Callable[[Job], dict[str, Tensor]]


def import_loop(name: str) -> Loop:
    """The function that trains one task. The plain loop does not import the Trainer."""
    if name == "plain":
        from stockpot.training import plain

        return plain.train_plainly
    from stockpot.training import trainer

    return trainer.train_with_trainer


def train(job: Job, loop: str) -> dict[str, Tensor]:
    """Trains one task; returns the optimizer's state. Raises Interrupted after a requested checkpoint."""
    return import_loop(loop)(job)
