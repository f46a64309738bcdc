"""Exact match: the answer that the model writes against the answer of the completion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar

from torch import nn

from stockpot.errors import StockpotError
from stockpot.evaluation.language.generation import continuations
from stockpot.evaluation.spec import ExactMatch
from stockpot.streams.text.part import TextPart

_T = TypeVar("_T")


class Unsuited(StockpotError):  # noqa: N818
    """A score and a part that do not go together: an empty cell, unless the recipe asked for it by name."""


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")


def spaced(items: Sequence[_T], limit: int | None) -> list[_T]:
    """At most `limit` of the items, evenly spaced from the first: the same ones every time."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[place * len(items) // limit] for place in range(limit)]


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
    found = re.search(pattern, text)
    return None if found is None or found[1] is None else normalised(found[1])


def exact_match(spec: ExactMatch, model: nn.Module, tokenizer: Any, part: TextPart, batch_size: int) -> float:
    """The fraction of prompts whose greedy continuation holds the completion's answer.

    Raises Unsuited where no completion holds an answer, and StockpotError where some do not.
    """
    if not part.prompts:
        raise Unsuited(f"{spec.title} on {part.task!r}: plain text has no prompts to answer.")
    chosen = spaced(range(len(part.prompts)), spec.limit)
    wanted = [extracted(part.completions[index], spec.extract) for index in chosen]
    if None in wanted:
        kind = Unsuited if wanted.count(None) == len(wanted) else StockpotError
        raise kind(
            f"{spec.title} on {part.task!r}: the completion of test example {chosen[wanted.index(None)]} has no "
            f"answer: extract: {spec.extract!r} does not match it; mend it, or name in `tasks` those that it suits."
        )
    prompts = [part.prompts[index] for index in chosen]
    written = continuations(model, tokenizer, prompts, batch_size=batch_size, max_new_tokens=spec.max_new_tokens)
    hits = [extracted(texts[0], spec.extract) == answer for texts, answer in zip(written, wanted, strict=True)]
    return sum(hits) / len(hits)
