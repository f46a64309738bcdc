"""Token sequences in memory, for causal language models and for classifiers of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stockpot.batches.answered_examples import AnsweredExamples
from stockpot.batches.examples import IGNORED, Batch, ConcatExamples, Examples, TensorExamples, joined_labels
from stockpot.batches.ragged import joined_ends, padded_places, places_of

_PER_TOKEN, _PER_SEQUENCE = ("tokens", "targets", "positions"), ("ends", "rows")


@dataclass(frozen=True)
class TokenExamples:
    """Token sequences of different lengths in memory, one behind the other; a batch is padded to its longest.

    For a causal language model `targets` holds at every position the token that comes **next**, and `IGNORED` where
    there is no loss; for a classifier `rows` holds the labels of every sequence. `positions` restart where several
    texts share one sequence: attention then keeps them apart, and there is no attention mask.
    """

    tokens: Tensor  # (T,) int32
    ends: Tensor  # (N,) int64: where each sequence ends in `tokens`
    targets: Tensor | None = None  # (T,) int32
    rows: Tensor | None = None  # (N,) int64, or (N, rows) of several labels or numbers
    positions: Tensor | None = None  # (T,) int32
    pad: int = 0

    @property
    def labels(self) -> Tensor:
        """The labels of each sequence; 0 for text to be continued, which has no classes."""
        return torch.zeros(len(self.ends), dtype=torch.int64) if self.rows is None else self.rows

    @property
    def has_classes(self) -> bool:
        """False for text to be continued."""
        return self.targets is None

    @property
    def kind(self) -> str:
        """What the text is for."""
        return "text with classes" if self.has_classes else "text to be continued"

    @property
    def lengths(self) -> Tensor:
        """Tokens in each sequence, (N,) int64."""
        return self.ends.diff(prepend=self.ends.new_zeros(1))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        picked = torch.as_tensor(indices)
        where, inside, lengths = padded_places(self.ends, picked, len(self.tokens))
        batch = {"input_ids": self.tokens[where].long().masked_fill(~inside, self.pad)}
        if self.positions is not None:
            # Padding counts from 0 again: to the attention it is a text of its own.
            beyond = torch.arange(inside.shape[1]) - lengths[:, None]
            batch["position_ids"] = torch.where(inside, self.positions[where].long(), beyond)
        elif not bool(inside.all()) or self.rows is not None:
            batch["attention_mask"] = inside.long()
        if self.rows is not None:
            return {**batch, "labels": self.rows[picked]}
        assert self.targets is not None, "sequences have targets, or rows"
        return {**batch, "labels": self.targets[where].long().masked_fill(~inside, IGNORED)}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.to_tensors()[0].values())

    def picked(self, indices: Sequence[int] | Tensor) -> TokenExamples:
        """These sequences alone, in this order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        where, ends = places_of(self.ends, chosen)
        return TokenExamples(
            self.tokens[where],
            ends,
            None if self.targets is None else self.targets[where],
            None if self.rows is None else self.rows[chosen],
            None if self.positions is None else self.positions[where],
            self.pad,
        )

    def followed_by(self, others: Sequence[Examples]) -> Examples:
        """These sequences, then the others, in one set of tensors."""
        parts = [self, *(part for part in others if isinstance(part, TokenExamples))]
        if len(parts) <= len(others):
            return ConcatExamples.of([self, *others])
        packed = any(part.positions is not None for part in parts)
        return TokenExamples(
            torch.cat([part.tokens for part in parts]),
            joined_ends([part.ends for part in parts], [len(part.tokens) for part in parts]),
            _joined([part.targets for part in parts]),
            _joined([part.rows for part in parts]),
            _joined([part.counted_positions() if packed else None for part in parts]),
            self.pad,
        )

    def counted_positions(self) -> Tensor:
        """`positions`, (T,) int32; without them every sequence is one text, and its tokens are counted from 0."""
        if self.positions is not None:
            return self.positions
        starts = self.ends - self.lengths
        return (torch.arange(len(self.tokens)) - starts.repeat_interleave(self.lengths)).int()

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors that there are, their names, and the padding token."""
        tensors = {name: getattr(self, name) for name in (*_PER_SEQUENCE, *_PER_TOKEN)}
        present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return present, {"text": list(present), "pad": self.pad}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> TokenExamples:
        """The examples that `to_tensors` was called on."""
        return cls(**{name: tensors[name] for name in values["text"]}, pad=int(values["pad"]))

    @staticmethod
    def expected_lengths(tensors: Mapping[str, Tensor], values: Mapping[str, Any], count: int) -> dict[str, int]:
        """How long each saved tensor of `count` sequences must be; −1 where damaged `ends` do not say."""
        ends = tensors.get("ends")
        ascending = ends is not None and len(ends) and bool((ends.diff(prepend=ends.new_zeros(1)) > 0).all())
        tokens = int(ends[-1]) if ends is not None and ascending else -1
        return {name: tokens if name in _PER_TOKEN else count for name in values["text"]}


def _joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    assert len(present) in (0, len(tensors)), "sequences of one kind only"
    return joined_labels(present) if present else None


def stored_type(
    values: Mapping[str, Any],
) -> type[TensorExamples] | type[TokenExamples] | type[AnsweredExamples]:
    """Which examples `to_tensors` wrote these JSON values for."""
    if "answered" in values:
        return AnsweredExamples
    return TokenExamples if "text" in values else TensorExamples
