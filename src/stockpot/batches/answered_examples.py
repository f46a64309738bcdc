"""Prompts with their completions in memory, for models that read with an encoder and write with a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stockpot.batches.examples import IGNORED, Batch, ConcatExamples, Examples
from stockpot.batches.ragged import joined_ends, padded_places, places_of

_PROMPT, _ANSWER = ("tokens",), ("decoder_tokens", "targets")  # one number for each token of prompt or answer
_PER_EXAMPLE = ("ends", "answer_ends")


@dataclass(frozen=True)
class AnsweredExamples:
    """A prompt for the encoder and an answer of the decoder each, of different lengths; a batch is padded.

    The decoder is given `decoder_tokens`, its start token and all tokens of the answer but the last; `targets` holds at
    each of these positions the token that comes next, and `IGNORED` where there is no loss.
    """

    tokens: Tensor  # (T,) int32
    ends: Tensor  # (N,) int64: where each prompt ends in `tokens`
    decoder_tokens: Tensor  # (S,) int32
    targets: Tensor  # (S,) int32
    answer_ends: Tensor  # (N,) int64: where each answer ends in `targets`
    pad: int = 0

    has_classes = False
    kind = "prompts to be answered"

    @property
    def labels(self) -> Tensor:
        """0 for every example, which has no class."""
        return torch.zeros(len(self.ends), dtype=torch.int64)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each prompt or of its answer, whichever has more, (N,) int64."""
        zero = self.ends.new_zeros(1)
        return torch.maximum(self.ends.diff(prepend=zero), self.answer_ends.diff(prepend=zero))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        picked = torch.as_tensor(indices)
        where, inside, _ = padded_places(self.ends, picked, len(self.tokens))
        batch = {"input_ids": self.tokens[where].long().masked_fill(~inside, self.pad)}
        batch["attention_mask"] = inside.long()
        where, inside, _ = padded_places(self.answer_ends, picked, len(self.targets))
        # Padding lies behind the answer, where a decoder that only looks back never sees it.
        batch["decoder_input_ids"] = self.decoder_tokens[where].long().masked_fill(~inside, self.pad)
        return {**batch, "labels": self.targets[where].long().masked_fill(~inside, IGNORED)}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.to_tensors()[0].values())

    def picked(self, indices: Sequence[int] | Tensor) -> AnsweredExamples:
        """These examples alone, in this order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        prompts, ends = places_of(self.ends, chosen)
        answers, answer_ends = places_of(self.answer_ends, chosen)
        return AnsweredExamples(
            self.tokens[prompts], ends, self.decoder_tokens[answers], self.targets[answers], answer_ends, self.pad
        )

    def followed_by(self, others: Sequence[Examples]) -> Examples:
        """These examples, then the others, in one set of tensors."""
        parts = [self, *(part for part in others if isinstance(part, AnsweredExamples))]
        if len(parts) <= len(others):
            return ConcatExamples.of([self, *others])
        return AnsweredExamples(
            torch.cat([part.tokens for part in parts]),
            joined_ends([part.ends for part in parts], [len(part.tokens) for part in parts]),
            torch.cat([part.decoder_tokens for part in parts]),
            torch.cat([part.targets for part in parts]),
            joined_ends([part.answer_ends for part in parts], [len(part.targets) for part in parts]),
            self.pad,
        )

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors, their names, and the padding token."""
        tensors = {name: getattr(self, name) for name in (*_PER_EXAMPLE, *_PROMPT, *_ANSWER)}
        return tensors, {"answered": list(tensors), "pad": self.pad}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> AnsweredExamples:
        """The examples that `to_tensors` was called on."""
        return cls(**{name: tensors[name] for name in values["answered"]}, pad=int(values["pad"]))

    @staticmethod
    def expected_lengths(tensors: Mapping[str, Tensor], values: Mapping[str, Any], count: int) -> dict[str, int]:
        """How long each saved tensor of `count` examples must be; −1 where damaged ends do not say."""
        prompts, answers = (_total(tensors.get(name)) for name in _PER_EXAMPLE)
        return {
            **dict.fromkeys(_PER_EXAMPLE, count), **dict.fromkeys(_PROMPT, prompts), **dict.fromkeys(_ANSWER, answers)
        }  # fmt: skip


def _total(ends: Tensor | None) -> int:
    ascending = ends is not None and len(ends) and bool((ends.diff(prepend=ends.new_zeros(1)) > 0).all())
    return int(ends[-1]) if ends is not None and ascending else -1
