"""Perplexity: the exponential of the loss."""

from __future__ import annotations

from math import exp
from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject

_LARGEST_LOSS = 700  # e^710 is more than a float can hold


class Perplexity(Score):
    """`exp(loss)`: the model is as unsure as if it chose among this many equally likely tokens."""

    unit: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False

    name: Literal["perplexity"] = "perplexity"

    def measure(self, subject: Subject) -> float | None:
        """None where the loss is too large to be exponentiated, or not a number."""
        loss = subject.likelihood.loss
        return exp(loss) if loss is not None and loss < _LARGEST_LOSS else None
