"""Every score of a recipe on one part of a language task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import exp, isfinite
from typing import Any

from torch import nn

from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.consent import has_unsandboxed_consent
from stockpot.evaluation.language.answer import Unsuited, exact_match
from stockpot.evaluation.language.choice import multiple_choice
from stockpot.evaluation.language.code import code_score
from stockpot.evaluation.language.harness import lm_eval_score
from stockpot.evaluation.language.likelihood import TokenScores, token_scores
from stockpot.evaluation.spec import (
    Accuracy,
    AnyScore,
    BitsPerByte,
    ExactMatch,
    LmEval,
    Loss,
    MultipleChoice,
    PassAtK,
    Perplexity,
)  # fmt: skip
from stockpot.streams.text.part import TextPart


class _Pass:
    """The one pass that loss, perplexity, bits per byte and token accuracy share; made when first asked for."""

    def __init__(self, model: nn.Module, part: TextPart, batch_size: int) -> None:
        self.model, self.part, self.batch_size = model, part, batch_size

    @cached_property
    def scores(self) -> TokenScores:
        return token_scores(self.model, self.part.examples, self.batch_size)

    def value(self, spec: AnyScore) -> float | None:
        loss = self.scores.loss
        if isinstance(spec, Loss):
            return loss
        if isinstance(spec, Perplexity):
            return None if loss is None or not loss < 700 else exp(loss)  # e^710 is no float any more
        if isinstance(spec, BitsPerByte):
            return self.scores.bits_per_byte(self.part.bytes)
        return self.scores.token_accuracy


def measure(
    specs: Sequence[AnyScore],
    model: nn.Module,
    tokenizer: Any,
    part: TextPart,
    batch_size: int,
    allow_code: bool = False,
    needed: str | None = None,
) -> dict[str, float | None]:
    """Title of each score → its value on the part.

    None where `tasks` leaves the part out, where the score cannot be measured on it, and where it is not a finite
    number. Raises StockpotError where `tasks` names a part that the score cannot be measured on, where that is the
    score `needed`, and without consent.
    """
    shared = _Pass(model, part, batch_size)
    result: dict[str, float | None] = {}
    for spec in specs:
        value: float | None = None
        if spec.tasks is None or part.task in spec.tasks:
            try:
                value = _value(spec, model, tokenizer, part, batch_size, allow_code, shared)
            except Unsuited as error:
                if spec.title == needed:
                    raise StockpotError(
                        f"{error} Forgetting is computed from it; name another in `primary`."
                    ) from error
                if spec.tasks is not None:
                    raise
        result[spec.title] = value if value is not None and isfinite(value) else None
    return result


def _value(
    spec: AnyScore, model: nn.Module, tokenizer: Any, part: TextPart, batch_size: int, allow_code: bool, shared: _Pass
) -> float | None:
    if isinstance(spec, Accuracy):
        raise Unsuited(f"{spec.title} on {part.task!r}: only classifiers have an accuracy; try token_accuracy.")
    if isinstance(spec, ExactMatch):
        return exact_match(spec, model, tokenizer, part, batch_size)
    if isinstance(spec, MultipleChoice):
        return multiple_choice(spec, model, tokenizer, part, batch_size)
    if isinstance(spec, PassAtK):
        return code_score(spec, model, tokenizer, part, batch_size, allow_code)
    if isinstance(spec, LmEval):
        return lm_eval_score(spec, model, tokenizer, batch_size, has_unsandboxed_consent())
    return shared.value(spec)


def check_scores(
    specs: Sequence[AnyScore],
    tasks: Sequence[str],
    controls: Sequence[str] = (),
    kind: str = "language",
    primary: str | None = None,
) -> None:
    """Raises StockpotError for scores that share a title, name unknown tasks, or do not suit the kind of model.

    `primary` is the title of the score that the metrics are made of, the first one by default; it must be measured on
    every task.
    """
    titles, known = [spec.title for spec in specs], [*tasks, *controls]
    for spec in specs:
        place = f"metrics: {spec.title}"
        if titles.count(spec.title) > 1:
            raise StockpotError(f"{place}: two metrics are called so; give one of them a `label`.")
        for name in spec.tasks or ():
            if name not in known:
                hint = did_you_mean(name, known)
                raise StockpotError(f"{place}: tasks: there is no {name!r}.{hint} Known: {', '.join(known)}.")
        if isinstance(spec, Accuracy) == (kind == "language"):
            suits = "a classifier" if isinstance(spec, Accuracy) else "`scenario: language`"
            raise StockpotError(f"{place}: this score is for {suits}; leave it out.")
    if primary is not None and primary not in titles:
        hint = did_you_mean(primary, titles)
        raise StockpotError(f"primary: there is no score {primary!r}.{hint} Measured: {', '.join(titles)}.")
    first = specs[0 if primary is None else titles.index(primary)]
    left = [task for task in tasks if first.tasks is not None and task not in first.tasks]
    if left:
        raise StockpotError(
            f"metrics: {first.title}: forgetting is computed from this score, so it must be measured on every task, "
            f"and its `tasks` leaves out {left[0]!r}; name another one in `primary`."
        )
