"""What every score shares, and what a score is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.batches.losses import ProblemType
from stockpot.errors import StockpotError
from stockpot.evaluation.language.likelihood import TokenScores, token_scores
from stockpot.evaluation.predictions import AnswerCounts, Predictions, predict
from stockpot.evaluation.value_outputs import Outputs, model_outputs
from stockpot.streams.text.part import TextPart
from stockpot.strict import StrictModel

Suits = Literal["classifier", "multi-label", "regression", "language"]
SUITED: dict[ProblemType, Suits] = {
    "single_label_classification": "classifier",
    "multi_label_classification": "multi-label",
    "regression": "regression",
}
_T = TypeVar("_T")


class Unsuited(StockpotError):  # noqa: N818
    """A score and a part that do not go together: an empty cell, unless the recipe asked for it by name."""


@dataclass
class Subject:
    """What scores are measured on: one model, and the test part of one task or control."""

    model: nn.Module
    task: str  # its name
    part: Examples | TextPart
    batch_size: int
    candidates: Tensor | None = None  # of a classifier: (rows,) of bool, the output rows that it chooses from
    tokenizer: Any = None
    allow_code: bool = False  # whether the user agreed to run what the model writes

    @property
    def text(self) -> TextPart:
        """The part of a language task; raises Unsuited where the model classifies."""
        if not isinstance(self.part, TextPart):
            raise Unsuited(f"{self.task!r} is classified; this score is for `scenario: language`.")
        return self.part

    @cached_property
    def predictions(self) -> Predictions:
        """What a classifier answers, of one forward pass that all of its scores share."""
        assert self.candidates is not None, "asked of classifiers only"
        assert not isinstance(self.part, TextPart), "asked of classifiers only"
        return predict(self.model, self.part, self.candidates, self.batch_size)

    def answer_counts(self) -> AnswerCounts | None:
        """How each class was answered; None where no score asked for the predictions."""
        predictions: Predictions | None = vars(self).get("predictions")
        return None if predictions is None else predictions.counts()

    @property
    def has_values(self) -> bool:
        """Whether examples have several labels, or numbers."""
        return not isinstance(self.part, TextPart) and self.part.labels.is_floating_point()

    @cached_property
    def outputs(self) -> Outputs:
        """What the model gives for examples with several labels or numbers, of one pass that all their scores share.

        Raises Unsuited for other parts.
        """
        if isinstance(self.part, TextPart) or not self.has_values:
            raise Unsuited(f"{self.task!r} has neither several labels nor numbers for each example.")
        return model_outputs(self.model, self.part, self.batch_size)

    @cached_property
    def likelihood(self) -> TokenScores:
        """Sums over the tokens of the part, of one forward pass that all scores of likelihood share."""
        return token_scores(self.model, self.text.examples, self.batch_size)


class Score(StrictModel):
    """A score: its settings are the fields, as a recipe writes them; the rest is declared by its class.

    Every task and control has one value of it after every task learnt: a matrix of its own.
    """

    unit: ClassVar[str] = "fraction"  # what it is counted in
    higher_is_better: ClassVar[bool] = True
    suits: ClassVar[tuple[Suits, ...]] = ("language",)  # which models have it
    declared_name: ClassVar[str | None] = None  # of one at a dotted path, which is then its `name`

    name: str
    label: str | None = Field(None, description="what the score is called; default: its name", min_length=1)
    tasks: list[str] | None = Field(
        None, description="tasks and controls that it is measured on; default: all it can", min_length=1
    )

    @property
    def title(self) -> str:
        """The label, or the name."""
        return self.label or self.declared_name or self.name

    def measure(self, subject: Subject) -> float | None:
        """The value; None where there is nothing to measure it on, such as no token to predict.

        Raises Unsuited where the score cannot be measured on this part, and StockpotError for what the user can fix.
        """
        raise NotImplementedError

    def require_consent(self, allow_code: bool) -> None:
        """Raises StockpotError where the score runs programs that the model writes, and the user did not agree."""

    def unsuited(self, subject: Subject, reason: str) -> Unsuited:
        """The error for a part on which this score cannot be measured."""
        return Unsuited(f"{self.title} on {subject.task!r}: {reason}.")

    def classified(self, subject: Subject) -> Predictions:
        """What the classifier answers; raises Unsuited where the model does not classify."""
        if isinstance(subject.part, TextPart) or subject.candidates is None:
            raise self.unsuited(subject, f"only classifiers have {self.name}; try token_accuracy")
        return subject.predictions

    def prompted(self, subject: Subject) -> TextPart:
        """The part, where it has prompts to answer; raises Unsuited for plain text."""
        if not subject.text.prompts:
            raise self.unsuited(subject, "plain text has no prompts to answer")
        return subject.text


def thinned(items: Sequence[_T], limit: int | None) -> list[_T]:
    """At most `limit` of the items, at even distances from the first: the same ones every time."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[place * len(items) // limit] for place in range(limit)]
