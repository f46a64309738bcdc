"""The test part of a language task: sequences for the model, and the strings that they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stockpot.streams.text.tokenised import LanguageExamples


@dataclass(frozen=True)
class TextPart:
    """Sequences in which every token of the text is predicted exactly once, and the text itself.

    `bytes` is the UTF-8 length of what is predicted: the texts, or the completions, without ends of text.
    """

    task: str
    examples: LanguageExamples
    bytes: int
    prompts: Sequence[str] = ()  # as the model receives them, with the chat template applied; empty for plain text
    completions: Sequence[str] = ()  # the reference answer to each prompt
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)  # of the data set, with all its columns
