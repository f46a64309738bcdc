"""Mean average precision of several labels: whether examples with a label come first when its outputs are ranked."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from stockpot.evaluation.scores.base import Score, Subject, Suits


class MeanAveragePrecision(Score):
    """The mean over labels of `Σ_n (recall_n − recall_{n−1})·precision_n`; it needs no threshold."""

    suits: ClassVar[tuple[Suits, ...]] = ("multi-label",)

    name: Literal["mean_average_precision"] = "mean_average_precision"

    def measure(self, subject: Subject) -> float | None:
        """The mean over the labels that some example has. A label that the model lacks so far ranks all the same."""
        from sklearn.metrics import average_precision_score

        precisions = [
            average_precision_score(labels, np.nan_to_num(values))
            for labels, values in subject.outputs.columns()
            if labels.any()
        ]
        return float(np.mean(precisions)) if precisions else None
