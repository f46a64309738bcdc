"""Bits per byte: a loss that does not depend on how a tokenizer cuts the text."""

from __future__ import annotations

from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score, Subject


class BitsPerByte(Score):
    """`nats / (ln 2 · bytes)` over the whole part: comparable between models with different tokenizers."""

    unit: ClassVar[str] = "bits per byte"
    higher_is_better: ClassVar[bool] = False

    name: Literal["bits_per_byte"] = "bits_per_byte"

    def measure(self, subject: Subject) -> float | None:
        """Bits for each byte of UTF-8 that is predicted."""
        return subject.likelihood.bits_per_byte(subject.text.bytes)
