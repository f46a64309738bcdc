"""Rehearsal: a buffer of past examples is mixed into the new task's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stockpot.errors import StockpotError
from stockpot.methods.base import BaseConfig, Method, Task, Tensors
from stockpot.seeds import generator
from stockpot.streams.examples import Examples, TensorExamples, TrainingData, concat


class Config(BaseConfig):
    """How much of the past is kept, which examples, and how they are mixed in."""

    name: Literal["replay"]
    fraction: float | None = Field(None, ge=0, le=1, description="kept of EACH past task; default 0.1")
    count: int | None = Field(None, ge=0, description="kept of each past task (per_task), or in all (reservoir)")
    budget: Literal["per_task", "reservoir"] = Field("per_task", description="a share of each task, or one reservoir")
    mix: Literal["union", "batch"] = Field("union", description="one shuffled data set, or so many of every batch")
    per_batch: int = Field(32, ge=1, description="examples from the buffer in every batch, with mix: batch")

    @model_validator(mode="after")
    def _one_size(self) -> Config:
        if self.fraction is not None and self.count is not None:
            raise ValueError("give fraction or count, not both")
        if self.budget == "reservoir" and self.count is None:
            raise ValueError("a reservoir has one capacity: give count")
        return self


class Reservoir:
    """Keeps a uniform sample of M among all items offered so far (Vitter's algorithm R).

    Item n (from 0) goes to slot n if n < M, else to j ~ U{0…n} if j < M.
    """

    def __init__(self, capacity: int, seen: int = 0) -> None:
        self.capacity = capacity
        self.seen = seen

    def offer(self, many: int, draws: torch.Generator) -> dict[int, int]:
        """Slot → number of the new item that ends up there, for the next `many` items."""
        slots: dict[int, int] = {}
        for item in range(many):
            if self.seen < self.capacity:
                slots[self.seen] = item
            elif self.capacity:
                slot = int(torch.randint(self.seen + 1, (), generator=draws))
                if slot < self.capacity:
                    slots[slot] = item
            self.seen += 1
        return slots


class Replay(Method):
    """Examples of past tasks are kept in a buffer and trained on beside the new ones.

    Equation: loss over `task k ∪ buffer`, where the buffer holds M of the examples of tasks 1 … k−1
    Paper: experience replay, as in "On Tiny Episodic Memories in Continual Learning" (arXiv 1902.10486)
    """

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._buffer: TensorExamples | None = None
        self._seen = 0

    def training_data(self, task: Task, examples: Examples) -> TrainingData:
        """The task's examples and the buffer's, drawn before anything of this task is kept."""
        buffer = self._buffer
        if buffer is None or not len(buffer):
            return TrainingData.of(examples)
        shape = tuple(examples.__getitems__([0])["pixel_values"].shape[1:])
        if tuple(buffer.pixel_values.shape[1:]) != shape:
            raise StockpotError(
                f"replay: the buffer holds inputs of shape {tuple(buffer.pixel_values.shape[1:])}, "
                f"task {task.name!r} has {shape}."
            )
        self.costs.extra_memory_bytes = buffer.nbytes
        both = concat([examples, buffer])
        if self.config.mix == "union":
            return TrainingData.of(both)
        return TrainingData(both, new=len(examples), rehearsed_per_batch=self.config.per_batch)

    def task_end(self, task: Task, examples: Examples) -> None:
        """Fills the buffer from the finished task."""
        draws = generator(task.seed, "replay")
        if self.config.budget == "reservoir":
            self._fill_reservoir(examples, draws)
        else:
            size = self._size(len(examples))
            picked = torch.randperm(len(examples), generator=draws)[:size].sort().values
            if size:
                self._add(self._read(examples, picked))
        if self._buffer is not None:
            self.costs.stored_bytes = self.costs.stored_data_bytes = self._buffer.nbytes

    def _size(self, available: int) -> int:
        if self.config.count is not None:
            return min(self.config.count, available)
        fraction = 0.1 if self.config.fraction is None else self.config.fraction
        return int(fraction * available + 0.5)

    def _fill_reservoir(self, examples: Examples, draws: torch.Generator) -> None:
        reservoir = Reservoir(self.config.count or 0, self._seen)
        order = torch.randperm(len(examples), generator=draws)
        slots = reservoir.offer(len(examples), draws)
        self._seen = reservoir.seen
        if not slots:
            return
        where = torch.tensor(list(slots))
        fresh = self._read(examples, order[torch.tensor(list(slots.values()))])
        old = self._buffer
        size = max(int(where.max()) + 1, 0 if old is None else len(old))
        pixel_values = fresh.pixel_values.new_empty((size, *fresh.pixel_values.shape[1:]))
        labels = fresh.labels.new_empty(size)
        if old is not None:
            pixel_values[: len(old)], labels[: len(old)] = old.pixel_values, old.labels
        pixel_values[where], labels[where] = fresh.pixel_values, fresh.labels
        self._buffer = TensorExamples(pixel_values, labels)

    @staticmethod
    def _read(examples: Examples, picked: Tensor) -> TensorExamples:
        batch = examples.__getitems__(picked.tolist())
        return TensorExamples(batch["pixel_values"], batch["labels"])

    def _add(self, fresh: TensorExamples) -> None:
        old = self._buffer
        self._buffer = (
            fresh
            if old is None
            else TensorExamples(
                torch.cat([old.pixel_values, fresh.pixel_values]), torch.cat([old.labels, fresh.labels])
            )
        )

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The buffer, and how many examples the reservoir has seen."""
        if self._buffer is None:
            return {}, {"seen": self._seen}
        return {"pixel_values": self._buffer.pixel_values, "labels": self._buffer.labels}, {"seen": self._seen}

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Takes up a buffer."""
        self._seen = int(values.get("seen", 0))
        if "labels" in tensors:
            self._buffer = TensorExamples(tensors["pixel_values"], tensors["labels"])
