"""The token sequences that the texts of one part became."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.batches.answered_examples import AnsweredExamples
from stockpot.batches.token_examples import TokenExamples

LanguageExamples = TokenExamples | AnsweredExamples  # texts to be continued, or prompts to be answered


@dataclass(frozen=True)
class Tokenised:
    """The sequences of one part, and what became of its texts."""

    examples: LanguageExamples
    bytes: int  # UTF-8, of the text that is predicted
    cut: int = 0  # texts longer than `max_length`, which lost their end
    dropped: tuple[int, ...] = ()  # indices of the rows that were left out, because the prompt alone was as long
