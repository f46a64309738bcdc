"""Examples that are indexed by whole batches: tensors where they fit in memory, read one by one where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Batch = dict[str, Tensor]
IGNORED = -100  # as a target: nothing is to be learnt here


class Examples(Protocol):
    """Inputs and their output rows."""

    @property
    def labels(self) -> Tensor:
        """The output row of each example, (N,) int64."""
        ...

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch `{"pixel_values": (B, …), "labels": (B,)}`; DataLoader calls this once a batch.

        Of text `input_ids`, (B, L), takes the place of `pixel_values`, with `attention_mask` or `position_ids`; to a
        causal language model `labels` is (B, L), see TokenExamples.
        """
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that storing the examples takes."""
        ...


@dataclass(frozen=True)
class TensorExamples:
    """Examples in memory: one tensor of inputs, (N, …), and one of labels, (N,)."""

    pixel_values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        picked = torch.as_tensor(indices)
        return {"pixel_values": self.pixel_values[picked], "labels": self.labels[picked]}

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.pixel_values.nbytes + self.labels.nbytes


@dataclass(frozen=True)
class LazyExamples:
    """Examples that stay on disk: rows of a `datasets.Dataset`, decoded and processed a batch at a time."""

    dataset: Any
    process: Callable[[Any], Tensor]  # rows of the data set → (B, …)
    labels: Tensor
    bytes_each: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        picked = [int(index) for index in indices]
        return {"pixel_values": self.process(self.dataset[picked]), "labels": self.labels[torch.as_tensor(picked)]}

    @property
    def nbytes(self) -> int:
        """Bytes that the processed examples would take."""
        return len(self) * self.bytes_each


@dataclass(frozen=True)
class TokenExamples:
    """Token sequences of different lengths in memory, one behind the other; a batch is padded to its longest.

    For a causal language model `targets` says for every position the token that comes **next**, and `IGNORED` where
    nothing is to be learnt; for a classifier `rows` says the output row of every sequence. `positions` restart where
    several texts lie in one sequence: attention then keeps them apart, and there is no attention mask.
    """

    tokens: Tensor  # (T,) int32
    ends: Tensor  # (N,) int64: where each sequence ends in `tokens`
    targets: Tensor | None = None  # (T,) int32
    rows: Tensor | None = None  # (N,) int64
    positions: Tensor | None = None  # (T,) int32
    pad: int = 0

    @property
    def labels(self) -> Tensor:
        """The output row of each sequence; of text to be continued, which has no classes, 0."""
        return torch.zeros(len(self.ends), dtype=torch.int64) if self.rows is None else self.rows

    def __len__(self) -> int:
        return len(self.ends)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        picked = torch.as_tensor(indices)
        ends = self.ends[picked]
        starts = torch.where(picked > 0, self.ends[picked - 1], 0)
        lengths = ends - starts
        within = torch.arange(int(lengths.max()))
        inside = within < lengths[:, None]  # (B, L)
        where = (starts[:, None] + within).clamp(max=len(self.tokens) - 1)
        batch = {"input_ids": self.tokens[where].long().masked_fill(~inside, self.pad)}
        if self.positions is not None:
            # Padding counts from 0 again: to the attention it is a text of its own.
            batch["position_ids"] = torch.where(inside, self.positions[where].long(), within - lengths[:, None])
        elif not bool(inside.all()) or self.rows is not None:
            batch["attention_mask"] = inside.long()
        if self.rows is not None:
            return {**batch, "labels": self.rows[picked]}
        assert self.targets is not None, "sequences have targets, or rows"
        return {**batch, "labels": self.targets[where].long().masked_fill(~inside, IGNORED)}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.tokens, self.ends, self.targets, self.rows, self.positions)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def picked(self, indices: Sequence[int]) -> TokenExamples:
        """These sequences alone."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        starts = torch.where(chosen > 0, self.ends[chosen - 1], 0)
        lengths = self.ends[chosen] - starts
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        where = starts.repeat_interleave(lengths) + within
        return TokenExamples(
            self.tokens[where],
            lengths.cumsum(0),
            None if self.targets is None else self.targets[where],
            None if self.rows is None else self.rows[chosen],
            None if self.positions is None else self.positions[where],
            self.pad,
        )

    @classmethod
    def cat(cls, parts: Sequence[TokenExamples]) -> TokenExamples:
        """The parts one after the other."""
        before = torch.tensor([len(part.tokens) for part in parts]).cumsum(0).tolist()
        ends = [part.ends + offset for part, offset in zip(parts, [0, *before], strict=False)]

        def joined(tensors: list[Tensor | None]) -> Tensor | None:
            present = [tensor for tensor in tensors if tensor is not None]
            assert len(present) in (0, len(tensors)), "sequences of one kind only"
            return torch.cat(present) if present else None

        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat(ends),
            joined([part.targets for part in parts]),
            joined([part.rows for part in parts]),
            joined([_counted(part) if any(p.positions is not None for p in parts) else None for part in parts]),
            parts[0].pad,
        )


def _counted(part: TokenExamples) -> Tensor:
    """The positions of a part; counted out where every sequence is one text."""
    if part.positions is not None:
        return part.positions
    lengths = part.ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
    return (torch.arange(len(part.tokens)) - (part.ends - lengths).repeat_interleave(lengths)).int()


@dataclass(frozen=True)
class ConcatExamples:
    """Several sets of examples, one after the other."""

    parts: tuple[Examples, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        picked = torch.as_tensor(indices)
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        owner = torch.searchsorted(ends, picked, right=True)
        pixel_values: Tensor | None = None
        for number, part in enumerate(self.parts):
            where = (owner == number).nonzero().flatten()
            if len(where) == 0:
                continue
            start = int(ends[number]) - len(part)
            values = part.__getitems__((picked[where] - start).tolist())["pixel_values"]
            if pixel_values is None:
                pixel_values = values.new_empty((len(picked), *values.shape[1:]))
            pixel_values[where] = values
        assert pixel_values is not None, "a batch holds at least one example"
        return {"pixel_values": pixel_values, "labels": self.labels[picked]}

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)


def concat(parts: Sequence[Examples]) -> Examples:
    """The parts one after the other; tensors stay one tensor, which is what makes batches cheap."""
    kept = [part for part in parts if len(part)] or list(parts[:1])
    if len(kept) == 1:
        return kept[0]
    labels = torch.cat([part.labels for part in kept])
    tensors = [part for part in kept if isinstance(part, TensorExamples)]
    if len(tensors) == len(kept):
        return TensorExamples(torch.cat([part.pixel_values for part in tensors]), labels)
    sequences = [part for part in kept if isinstance(part, TokenExamples)]
    if len(sequences) == len(kept):
        return TokenExamples.cat(sequences)
    return ConcatExamples(tuple(kept), labels)


@dataclass(frozen=True)
class TrainingData:
    """What one task trains on: the first `new` examples make an epoch, the rest are drawn from.

    With `rehearsed_per_batch` m, every batch gets m of the examples after the first `new`, drawn without replacement.
    """

    examples: Examples
    new: int
    rehearsed_per_batch: int = 0

    @classmethod
    def of(cls, examples: Examples) -> TrainingData:
        """All examples, shuffled anew each epoch."""
        return cls(examples, len(examples))
