"""Exact match: the answer that the model writes against the answer of the completion."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal

from pydantic import Field, field_validator

from stockpot.errors import StockpotError
from stockpot.evaluation.language.generation import continuations
from stockpot.evaluation.scores.base import Score, Subject, Unsuited, thinned


class ExactMatch(Score):
    """The fraction of prompts to which the model, writing greedily, gives the answer of the completion."""

    name: Literal["exact_match"] = "exact_match"
    extract: str | None = Field(
        r"#### *(-?[\d.,]+)",
        description="regular expression whose one group is the answer, first match; null: all that is written",
    )
    max_new_tokens: int = Field(256, ge=1)
    limit: int | None = Field(200, ge=1, description="examples, evenly spaced over the part; null: all")

    @field_validator("extract")
    @classmethod
    def _has_one_group(cls, extract: str | None) -> str | None:
        if extract is None:
            return None
        try:
            groups = re.compile(extract).groups
        except re.error as error:
            raise ValueError(f"{extract!r} is not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"{extract!r} has {groups} groups; it needs one ( ) around the answer, others as (?: )")
        return extract

    def measure(self, subject: Subject) -> float:
        """The fraction of prompts whose greedy continuation holds the completion's answer.

        Raises Unsuited where no completion holds an answer, and StockpotError where some do not.
        """
        part = self.prompted(subject)
        chosen = thinned(range(len(part.prompts)), self.limit)
        answers = [extracted(part.completions[index], self.extract) for index in chosen]
        if None in answers:
            error = Unsuited if answers.count(None) == len(answers) else StockpotError
            raise error(
                f"{self.title} on {part.task!r}: the completion of test example {chosen[answers.index(None)]} has no "
                f"answer: extract: {self.extract!r} does not match it. Fix it, or name the tasks that it suits in "
                "`tasks`."
            )
        written = continuations(
            subject.model,
            subject.tokenizer,
            [part.prompts[index] for index in chosen],
            batch_size=subject.batch_size,
            max_new_tokens=self.max_new_tokens,
        )
        hits = [extracted(texts[0], self.extract) == answer for texts, answer in zip(written, answers, strict=True)]
        return sum(hits) / len(hits)


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")


def normalised(answer: str) -> str:
    """The answer without space around it; a number in its one plain form: `1,000.0` and `1000.` are `1000`."""
    stripped = answer.strip()
    plain = stripped.replace(",", "")
    plain = plain[:-1] if plain.endswith(".") else plain
    if not _NUMBER.fullmatch(plain):
        return stripped
    text = format(Decimal(plain), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def extracted(text: str, pattern: str | None) -> str | None:
    """The normalised group of the first match; without a pattern the stripped text; None where nothing matches."""
    if pattern is None:
        return text.strip()
    match = re.search(pattern, text)
    return None if match is None or match[1] is None else normalised(match[1])
