"""Accuracy of a classifier on a task's test examples."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class Accuracy(Score):
    """The fraction of examples whose label has the highest logit."""

    suits: ClassVar[tuple[Suits, ...]] = ("classifier",)

    name: Literal["accuracy"] = "accuracy"

    def measure(self, subject: Subject) -> float:
        """Correct answers / examples."""
        return self.classified(subject).accuracy
