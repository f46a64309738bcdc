"""Scores that users bring: a function of predictions and labels, or a class derived from Score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, create_model

from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.language.generation import continuations
from stockpot.evaluation.scores.base import Score, Subject, Suits, thinned
from stockpot.plugins import PATH_PATTERN, import_problem, is_dotted_path, load_dotted_path, load_registered, registered

SCORE_GROUP = "stockpot.scores"  # of entry points: packages register scores in it


class FunctionScore(Score):
    """A function `(predictions, labels) -> float`, called with all test examples of a task.

    Of a classifier both are arrays (N,) of output rows: the highest logit among those that compete, and the right one.
    Of several labels or numbers both are (N, rows): the outputs, before any sigmoid, and the labels, NaN where unknown.
    Of a language model they are lists of N texts: what it writes greedily after each prompt, and the completion.
    """

    suits: ClassVar[tuple[Suits, ...]] = ("classifier", "multi-label", "regression", "language")

    better: Literal["higher", "lower"] = Field("higher", description="which values are better")
    counted_in: str = Field("fraction", description="the unit of the values", min_length=1)
    max_new_tokens: int = Field(256, ge=1, description="of a language model's answers")
    limit: int | None = Field(200, ge=1, description="prompts, evenly spaced over the part; null: all")

    def measure(self, subject: Subject) -> float | None:
        """The function's value. Raises StockpotError where it fails, with the line of its file, or gives no number."""
        predictions, labels = self._answers(subject)
        function = load_score(self.name, f"metrics: {self.title}")
        try:
            value = function(predictions, labels)
            if isinstance(value, Mapping) and len(value) == 1:  # as `evaluate` gives it
                [value] = value.values()
            return float(value)
        except Exception as error:
            reason = import_problem(error, "")
            raise StockpotError(f"metrics: {self.title} on {subject.task!r}: {reason}") from error

    def _answers(self, subject: Subject) -> tuple[Any, Any]:
        if subject.has_values:
            return subject.outputs.values, subject.outputs.labels
        if subject.candidates is not None and not hasattr(subject.part, "prompts"):
            answered = self.classified(subject)
            return answered.answers.numpy(), answered.labels.numpy()
        part = self.prompted(subject)
        chosen = thinned(range(len(part.prompts)), self.limit)
        prompts = [part.prompts[index] for index in chosen]
        written = continuations(
            subject.model,
            subject.tokenizer,
            prompts,
            batch_size=subject.batch_size,
            max_new_tokens=self.max_new_tokens,
        )
        return [texts[0] for texts in written], [part.completions[index] for index in chosen]


class UnopenedScore(Score):
    """What a run folder recorded of a score that the user's own code, or a package's, defines: none is imported."""

    model_config = ConfigDict(extra="allow")


class ScoreByPath(FunctionScore):
    """A score of the user's own code; keys of a class derived from Score may stand here, too."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(pattern=PATH_PATTERN, description="where the function is: package.module:function")


def load_score(name: str, where: str) -> Callable[..., Any]:
    """The function, or the class derived from Score, at a dotted path or of an installed package.

    Raises:
        StockpotError: it cannot be imported, or is neither.
    """
    thing = load_dotted_path(name, where) if is_dotted_path(name) else load_registered(SCORE_GROUP, name, where)
    if not callable(thing):
        raise StockpotError(f"{name}: this is neither a function (predictions, labels) -> float nor a Score.")
    return thing  # type: ignore[no-any-return]


def is_brought(name: Any) -> bool:
    """Whether a name in a recipe is a dotted path, or one that a package registers."""
    return is_dotted_path(name) or name in registered(SCORE_GROUP)


def brought_type(name: str, block: Mapping[str, Any] = MappingProxyType({})) -> type[Score]:
    """The type of the block of a score that users bring; that of a function has the block's direction and unit."""
    thing = load_score(name, "")
    if isinstance(thing, type) and issubclass(thing, Score):
        return _named(thing, name, str(thing.model_fields["name"].default), thing.higher_is_better, thing.unit)
    unit = str(block.get("counted_in", FunctionScore.unit))
    return _named(FunctionScore, name, name.rpartition(":")[2], block.get("better") != "lower", unit)


@cache
def _named(base: type[Score], name: str, declared: str, higher: bool, unit: str) -> type[Score]:
    named: Any = (Literal[name], name)
    located = create_model(base.__name__, __base__=base, __module__=base.__module__, name=named)
    located.declared_name = declared
    located.higher_is_better, located.unit = higher, unit
    return located


def open_brought(block: Mapping[str, Any], known: list[str], reading: bool) -> Score:
    """The score of a recipe's block whose name is not one of `known`, which are Stockpot's.

    Raises ValueError for a name that is nowhere; `reading` is for what a folder recorded: no code is imported.
    """
    name = block.get("name")
    if reading:
        return UnopenedScore.model_validate(block)
    if not is_brought(name):
        known = [*known, *registered(SCORE_GROUP)]
        raise ValueError(f"unknown metric {name!r}.{did_you_mean(str(name), known)} Known: {', '.join(known)}")
    return brought_type(str(name), block).model_validate(block)
