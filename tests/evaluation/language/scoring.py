"""Scores measured on parts that tests make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from stockpot.evaluation.measure import measure
from stockpot.evaluation.scores import AnyScore
from stockpot.evaluation.scores.base import Subject
from stockpot.streams.text.part import TextPart


def measured(
    scores: Sequence[AnyScore],
    model: nn.Module,
    tokenizer: Any,
    part: TextPart,
    batch_size: int,
    *,
    allow_code: bool = False,
    needed: str | None = None,
) -> dict[str, float | None]:
    """Title → value of each score on the part."""
    subject = Subject(model, part.task, part, batch_size, tokenizer=tokenizer, allow_code=allow_code)
    return measure(scores, subject, needed)
