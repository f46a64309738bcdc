"""Macro F1 of a classifier, of one class or of several labels for each example, on a task's test examples."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from stockpot.evaluation.scores.base import Score, Subject, Suits


class MacroF1(Score):
    """The mean over the classes of a task of the harmonic mean of precision and recall.

    Equation: `mean_c 2·correct_c / (n_c + answered_c)`, where `answered_c` counts the task's own test examples that
    were answered with class c; scikit-learn's `f1_score(average="macro")`, over the classes with test examples. An
    answer that is a class of another task lowers the recall alone: `RunResult.lost_classes` has the F1 over all tasks.
    Of several labels the mean over the labels, each given where its output is above 0, over the examples that have it
    labelled; a label that no example has and that is never given counts 0.
    """

    suits: ClassVar[tuple[Suits, ...]] = ("classifier", "multi-label")

    name: Literal["macro_f1"] = "macro_f1"

    def measure(self, subject: Subject) -> float:
        """The F1 of each class of the task, averaged; 0 for a class that was never answered correctly."""
        from sklearn.metrics import f1_score

        if subject.has_values:
            each = [f1_score(known, outputs > 0, zero_division=0.0) for known, outputs in subject.outputs.columns()]
            return float(np.mean(each))
        labels, answers = (rows.numpy() for rows in self.classified(subject))
        return float(f1_score(labels, answers, labels=sorted(set(labels)), average="macro", zero_division=0.0))
