"""Mean absolute error of a regression."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject, Suits


class MeanAbsoluteError(Score):
    """`mean |ŷ − y|`, and the mean over several numbers."""

    unit: ClassVar[str] = "units of the label"
    higher_is_better: ClassVar[bool] = False
    suits: ClassVar[tuple[Suits, ...]] = ("regression",)

    name: Literal["mae"] = "mae"

    def measure(self, subject: Subject) -> float | None:
        """The mean over examples, then over outputs. None where the model lacks an output."""
        from sklearn.metrics import mean_absolute_error

        return subject.outputs.mean_of(mean_absolute_error)
