"""Balanced accuracy of a classifier on a task's test examples."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class BalancedAccuracy(Score):
    """The mean over classes of the fraction of their examples that are answered correctly: rare classes count alike.

    Equation: `mean_c correct_c / n_c` over the classes with test examples; scikit-learn's `balanced_accuracy_score`.
    """

    suits: ClassVar[tuple[Suits, ...]] = ("classifier",)

    name: Literal["balanced_accuracy"] = "balanced_accuracy"

    def measure(self, subject: Subject) -> float:
        """The recall of each class of the task, averaged."""
        from sklearn.metrics import recall_score

        labels, answers = (rows.numpy() for rows in self.classified(subject))
        # balanced_accuracy_score is this, with a warning where an answer is a class of another task.
        return float(recall_score(labels, answers, labels=sorted(set(labels)), average="macro", zero_division=0.0))
