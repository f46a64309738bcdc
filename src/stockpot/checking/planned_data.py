"""What each task trains on, as far as counting needs it: texts as they are, images as mere places."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from stockpot.batches.examples import Examples, Mixture, TensorExamples, TrainingData, concat
from stockpot.methods.base import BaseConfig
from stockpot.methods.shared.buffer import BufferConfig
from stockpot.streams.sampling import evenly_spaced_rows
from stockpot.streams.stream import Stream


@dataclass
class PlannedData:
    """The training data of a stream's tasks under one method. Images stay on disk: how many there are is known."""

    stream: Stream
    method: BaseConfig
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the stream

    def __post_init__(self) -> None:
        self.facts = self.facts or self.stream.facts()

    @property
    def of_images(self) -> bool:
        """Whether the examples are images."""
        return self.stream.tokenizer is None

    def examples(self, index: int) -> Examples:
        """The task's own examples."""
        return _places(self._facts(index)["train"]) if self.of_images else self.stream.train(index)

    def training(self, index: int) -> tuple[TrainingData, bool]:
        """What task `index` trains on, and whether that is exact.

        It is not where a method draws from what it kept of past tasks: evenly spaced examples stand for these.
        """
        examples = self.examples(index)
        past = [self.examples(earlier) for earlier in range(index)]
        added = self.method.epoch_examples([*map(len, past), len(examples)]) - len(examples)
        exact = added in (0, sum(map(len, past)))
        if added:
            before = concat(past)
            kept = before if exact else before.picked(evenly_spaced_rows(len(before), added).tolist())
            examples = concat([kept, examples])
        data, mixture = TrainingData.of(examples), self._mixture(index)
        return (data if mixture is None else data.mixed_with(mixture)), exact

    def past_bytes(self, index: int) -> int:
        """Bytes of the past examples that the method trains on, or draws from, in task `index`."""
        sizes = [len(self.examples(earlier)) for earlier in range(index + 1)]
        past = self.method.epoch_examples(sizes) - sizes[-1]
        if isinstance(self.method, BufferConfig):
            past = self.method.kept_of(sizes[:-1])
        if not past:
            return 0
        few = self.stream.beginning(0, 8)
        return past * few.nbytes // len(few)

    def _mixture(self, index: int) -> Mixture | None:
        if not self.of_images:
            return self.stream.mixture(index)
        mix = self._facts(index).get("mix")
        return None if mix is None else Mixture(_places(mix["train"]), mix["fraction"])

    def _facts(self, index: int) -> dict[str, Any]:
        return self.facts[self.stream.tasks[index].name]


def _places(count: int) -> TensorExamples:
    return TensorExamples(torch.empty(count, 0), torch.zeros(count, dtype=torch.int64))
