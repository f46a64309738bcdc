"""Pearson's correlation of a regression's outputs with the labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class Pearson(Score):
    """`cov(ŷ, y) / (sd(ŷ)·sd(y))`: how well outputs follow labels in a straight line; the mean over several numbers."""

    unit: ClassVar[str] = "correlation"
    suits: ClassVar[tuple[Suits, ...]] = ("regression",)

    name: Literal["pearson"] = "pearson"

    def measure(self, subject: Subject) -> float | None:
        """None where all outputs or all labels are the same, too."""
        from scipy.stats import pearsonr

        return subject.outputs.mean_of(lambda labels, values: float(pearsonr(labels, values).statistic))
