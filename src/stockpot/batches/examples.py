"""Examples that are indexed by whole batches: tensors where they fit in memory, read one by one where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Batch = dict[str, Tensor]
IGNORED = -100  # as a target: no loss at this position


class Examples(Protocol):
    """Inputs and their labels."""

    @property
    def labels(self) -> Tensor:
        """The output row of each example, (N,) int64; of several labels or numbers (N, rows), NaN where unknown."""
        ...

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch `{"pixel_values": (B, …), "labels": (B,)}`; DataLoader calls this once a batch.

        For text `input_ids`, (B, L), replaces `pixel_values`, with `attention_mask` or `position_ids`; for a causal
        language model `labels` is (B, L), see TokenExamples.
        """
        ...

    @property
    def nbytes(self) -> int:
        """Bytes needed to store the examples."""
        ...

    @property
    def has_classes(self) -> bool:
        """Whether a head with rows answers each example: false for text that a language model continues or answers."""
        ...

    @property
    def kind(self) -> str:
        """A description of the inputs; only examples of the same kind can be stored together."""
        ...

    @property
    def lengths(self) -> Tensor | None:
        """Tokens in each sequence, (N,) int64; None for images."""
        ...

    def picked(self, indices: Sequence[int] | Tensor) -> StoredExamples:
        """These examples alone, in this order, in memory."""
        ...

    def followed_by(self, others: Sequence[Examples]) -> Examples:
        """These examples, then the others: one tensor where all of them are tensors."""
        ...


class StoredExamples(Examples, Protocol):
    """Examples that are held in memory, and can be written to a file."""

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors to save, and JSON values that `stored_type` and `from_tensors` need to read them again."""
        ...


class _ImageExamples:
    """What all examples of images share."""

    has_classes = True
    lengths = None

    @property
    def kind(self: Examples) -> str:
        """The shape of an input."""
        return f"inputs of shape {tuple(self.__getitems__([0])['pixel_values'].shape[1:])}"

    def picked(self: Examples, indices: Sequence[int] | Tensor) -> TensorExamples:
        """These examples alone, in this order, in memory."""
        batch = self.__getitems__(torch.as_tensor(indices).tolist())
        return TensorExamples(batch["pixel_values"], batch["labels"])

    def followed_by(self: Examples, others: Sequence[Examples]) -> Examples:
        """These examples, then the others."""
        return ConcatExamples.of([self, *others])


@dataclass(frozen=True)
class TensorExamples(_ImageExamples):
    """Examples in memory: one tensor of inputs, (N, …), and one of labels, (N,) or (N, rows)."""

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

    def followed_by(self, others: Sequence[Examples]) -> Examples:
        """These examples, then the others: one tensor where all of them are tensors, which makes batches cheap."""
        parts = [self, *(part for part in others if isinstance(part, TensorExamples))]
        if len(parts) <= len(others):
            return super().followed_by(others)
        return TensorExamples(
            torch.cat([part.pixel_values for part in parts]), joined_labels([part.labels for part in parts])
        )

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Both tensors; they need no further values."""
        return {"pixel_values": self.pixel_values, "labels": self.labels}, {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> TensorExamples:
        """The examples that `to_tensors` was called on."""
        return cls(tensors["pixel_values"], tensors["labels"])

    @staticmethod
    def expected_lengths(tensors: Mapping[str, Tensor], values: Mapping[str, Any], count: int) -> dict[str, int]:
        """How long each saved tensor of `count` examples must be."""
        return {"pixel_values": count, "labels": count}


@dataclass(frozen=True)
class LazyExamples(_ImageExamples):
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
class ConcatExamples(_ImageExamples):
    """Several sets of examples, one after the other."""

    parts: tuple[Examples, ...]
    labels: Tensor

    @classmethod
    def of(cls, parts: Sequence[Examples]) -> ConcatExamples:
        """The parts, which stay where they are."""
        return cls(tuple(parts), joined_labels([part.labels for part in parts]))

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


def joined_labels(labels: Sequence[Tensor]) -> Tensor:
    """Labels of several sets of examples, one after the other; NaN in the rows that a set does not have."""
    if labels[0].dim() == 1:
        return torch.cat(list(labels))
    width = max(each.shape[1] for each in labels)
    return torch.cat([functional.pad(each, (0, width - each.shape[1]), value=nan) for each in labels])


def concat(parts: Sequence[Examples]) -> Examples:
    """The parts one after the other, empty ones left out."""
    filled = [part for part in parts if len(part)] or list(parts[:1])
    return filled[0] if len(filled) == 1 else filled[0].followed_by(filled[1:])


@dataclass(frozen=True)
class TrainingData:
    """What one task trains on: the first `new` examples make an epoch; the rest are for rehearsal, or general data.

    With `rehearsed_per_batch` m, every batch gets m of the examples after the first `new`, drawn without replacement.
    The last `general` examples are none of these: each epoch has `drawn_general` of them beside the new ones.
    """

    examples: Examples
    new: int
    rehearsed_per_batch: int = 0
    general: int = 0
    drawn_general: int = 0

    @classmethod
    def of(cls, examples: Examples) -> TrainingData:
        """All examples, shuffled anew each epoch."""
        return cls(examples, len(examples))

    @property
    def epoch(self) -> int:
        """Examples in an epoch, without those that are rehearsed in every batch."""
        return self.new + self.drawn_general

    def mixed_with(self, mixture: Mixture) -> TrainingData:
        """The same with general data in every epoch.

        Equation: of n new examples and fraction f, `round(n·f / (1−f))` general ones, so that they are f of the epoch
        """
        drawn = max(1, int(self.new * mixture.fraction / (1 - mixture.fraction) + 0.5))
        examples = self.examples.followed_by([mixture.examples])
        return replace(self, examples=examples, general=len(mixture.examples), drawn_general=drawn)


@dataclass(frozen=True)
class Mixture:
    """General data, and the fraction of a task's epochs that it is to be."""

    examples: Examples
    fraction: float
