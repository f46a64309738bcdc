"""R²: how much of the spread of the labels a regression explains."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class RSquared(Score):
    """`1 − Σ (ŷ − y)² / Σ (y − ȳ)²`: 0 for the mean as the answer, below it for worse; averaged over outputs."""

    unit: ClassVar[str] = "of the variance"
    suits: ClassVar[tuple[Suits, ...]] = ("regression",)

    name: Literal["r2"] = "r2"

    def measure(self, subject: Subject) -> float | None:
        """The mean over outputs. None where the model lacks an output."""
        from sklearn.metrics import r2_score

        return subject.outputs.mean_of(r2_score)
