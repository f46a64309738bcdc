"""What one part of a language task is: sequences for the model, and the strings that they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stockpot.batches.token_examples import TokenExamples


@dataclass(frozen=True)
class TextPart:
    """Sequences in which every token that counts is predicted exactly once, and what they spell.

    `bytes` is the UTF-8 length of what is predicted (the texts, or the completions, ends of text not counted).
    """

    task: str
    examples: TokenExamples
    bytes: int
    prompts: Sequence[str] = ()  # as the model is given them, chat template applied; none of plain text
    completions: Sequence[str] = ()  # what is to be said to each
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)  # of the data set, for scores that read more
