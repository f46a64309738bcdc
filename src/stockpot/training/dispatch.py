"""Which loop trains a task: the recipe's `loop`."""

from __future__ import annotations

from torch import Tensor

from stockpot.training.job import Job


def train(job: Job, loop: str) -> dict[str, Tensor]:
    """Trains one task; returns the optimizer's state. Raises Interrupted after a requested checkpoint."""
    if loop == "plain":
        from stockpot.training import plain

        return plain.train_plainly(job)
    from stockpot.training import trainer

    return trainer.train_with_trainer(job)
