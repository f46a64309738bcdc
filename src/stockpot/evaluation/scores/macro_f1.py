"""Macro F1 of a classifier on a task's test examples."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class MacroF1(Score):
    """The mean over the classes of a task of the harmonic mean of precision and recall.

    Equation: `mean_c 2·correct_c / (n_c + answered_c)`, where `answered_c` counts the task's own test examples that
    were answered with class c; scikit-learn's `f1_score(average="macro")`, over the classes with test examples. An
    answer that is a class of another task lowers the recall alone: `RunResult.lost_classes` has the F1 over all tasks.
    """

    suits: ClassVar[Suits] = "classifier"

    name: Literal["macro_f1"] = "macro_f1"

    def measure(self, subject: Subject) -> float:
        """The F1 of each class of the task, averaged; 0 for a class that was never answered correctly."""
        from sklearn.metrics import f1_score

        labels, answers = (rows.numpy() for rows in self.classified(subject))
        return float(f1_score(labels, answers, labels=sorted(set(labels)), average="macro", zero_division=0.0))
