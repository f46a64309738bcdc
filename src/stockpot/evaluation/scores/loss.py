"""Loss: how unlikely a language model finds each token."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject


class Loss(Score):
    """The mean of `−log p(token | the tokens before it)`."""

    unit: ClassVar[str] = "nats per token"
    higher_is_better: ClassVar[bool] = False

    name: Literal["loss"] = "loss"

    def measure(self, subject: Subject) -> float | None:
        """Nats for each token that is predicted."""
        return subject.likelihood.loss
