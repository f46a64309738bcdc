"""Examples that are indexed by whole batches: tensors where they fit in memory, read one by one where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Examples(Protocol):
    """Inputs and their output rows."""

    @property
    def labels(self) -> Tensor:
        """The output row of each example, (N,) int64."""
        ...

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch `{"pixel_values": (B, …), "labels": (B,)}`; DataLoader calls this once a batch."""
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
