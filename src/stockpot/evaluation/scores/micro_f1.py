"""Micro F1 of several labels: every label of every example counts the same."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class MicroF1(Score):
    """`2·TP / (2·TP + FP + FN)`, counted over all labels together; a label is given where its output is above 0."""

    suits: ClassVar[tuple[Suits, ...]] = ("multi-label",)

    name: Literal["micro_f1"] = "micro_f1"

    def measure(self, subject: Subject) -> float | None:
        """Over what is labelled; 0 where no label is there and none was given."""
        from sklearn.metrics import f1_score

        outputs = subject.outputs
        labels, given = outputs.labels[outputs.known], outputs.values[outputs.known] > 0
        return float(f1_score(labels, given, zero_division=0))
