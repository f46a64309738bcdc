"""Joint training: the ceiling of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from stockpot.batches.examples import Examples, TrainingData, concat
from stockpot.files import folder_bytes
from stockpot.methods.base import BaseConfig, Method, StartsFrom, Task


class JointConfig(BaseConfig):
    """No parameters."""

    name: Literal["joint"]

    @property
    def starts_from(self) -> StartsFrom:
        """The start model, whatever the task."""
        return "pretrained"

    def epoch_examples(self, sizes: Sequence[int]) -> int:
        """Those of all tasks so far."""
        return sum(sizes)


class Joint(Method[JointConfig]):
    """Training on all tasks so far at once, from the start model: keeps all past data, and forgets nothing by design.

    Equation: `θ_k = train(θ_start, tasks 1 … k)`, as many epochs as a task has
    Cost: a task has more steps, one for each batch of all data so far
    Kept: all examples of all tasks, and the start model
    Use: to see what a model could keep at best; it is not continual learning
    """

    title = "joint training"
    role = "ceiling"
    forgets = False

    def training_data(self, task: Task, examples: Examples) -> TrainingData:
        """The union of the examples of all tasks so far."""
        past = [read() for read in task.past]
        self.costs.stored_data_bytes = sum(part.nbytes for part in past) + examples.nbytes
        self.costs.extra_memory_bytes = sum(part.nbytes for part in past)
        self.costs.stored_model_bytes = folder_bytes(task.checkpoint("pretrained"))
        self.costs.stored_bytes = self.costs.stored_data_bytes + self.costs.stored_model_bytes
        return TrainingData.of(concat([*past, examples]))
