"""Token accuracy: how often a language model's likeliest token is the right one."""

from __future__ import annotations

from typing import Literal

from stockpot.evaluation.scores.base import Score, Subject


class TokenAccuracy(Score):
    """The fraction of predicted tokens that had the highest logit."""

    name: Literal["token_accuracy"] = "token_accuracy"

    def measure(self, subject: Subject) -> float | None:
        """The fraction, given the right tokens before each."""
        return subject.likelihood.token_accuracy
