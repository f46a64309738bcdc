"""Root mean squared error of a regression."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class RootMeanSquaredError(Score):
    """`√ mean (ŷ − y)²`, and the mean over several numbers."""

    unit: ClassVar[str] = "units of the label"
    higher_is_better: ClassVar[bool] = False
    suits: ClassVar[tuple[Suits, ...]] = ("regression",)

    name: Literal["rmse"] = "rmse"

    def measure(self, subject: Subject) -> float | None:
        """The root of the mean over examples, then the mean over outputs. None where the model lacks an output."""
        from sklearn.metrics import root_mean_squared_error

        return subject.outputs.mean_of(root_mean_squared_error)
