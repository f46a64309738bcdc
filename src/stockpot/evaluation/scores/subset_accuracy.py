"""Exact match ratio of several labels."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from stockpot.evaluation.scores.base import Score, Subject, Suits


class SubsetAccuracy(Score):
    """The fraction of examples all of whose labels are right: each is given where its output is above 0."""

    suits: ClassVar[tuple[Suits, ...]] = ("multi-label",)

    name: Literal["subset_accuracy"] = "subset_accuracy"

    def measure(self, subject: Subject) -> float | None:
        """Labels that are not known count as right."""
        outputs = subject.outputs
        right = ((outputs.values > 0) == (outputs.labels == 1)) | ~outputs.known
        return float(np.mean(right.all(axis=1)))
