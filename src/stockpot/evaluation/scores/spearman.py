"""Spearman's correlation of a regression's outputs with the labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class Spearman(Score):
    """Pearson's correlation of the ranks: how well outputs put examples in order; the mean over several numbers."""

    unit: ClassVar[str] = "correlation"
    suits: ClassVar[tuple[Suits, ...]] = ("regression",)

    name: Literal["spearman"] = "spearman"

    def measure(self, subject: Subject) -> float | None:
        """None where all outputs or all labels are the same, too."""
        from scipy.stats import spearmanr

        return subject.outputs.mean_of(lambda labels, values: float(spearmanr(labels, values).statistic))
