"""(begun by the lead to try the loop: yours to write)"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Any

from torch import nn

from stockpot.evaluation.language.likelihood import token_scores
from stockpot.evaluation.spec import Score
from stockpot.streams.text.part import TextPart


def measure(
    specs: Sequence[Score], model: nn.Module, tokenizer: Any, part: TextPart, batch_size: int, allow_code: bool = False
) -> dict[str, float | None]:
    found = token_scores(model, part.examples, batch_size)
    loss = found.loss
    values = {"loss": loss, "perplexity": loss and exp(loss), "bits_per_byte": found.bits_per_byte(part.bytes),
              "token_accuracy": found.token_accuracy}  # fmt: skip
    return {spec.title: values.get(spec.name) for spec in specs}
