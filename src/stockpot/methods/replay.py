"""Rehearsal: a buffer of past examples is mixed into the new task's, or drawn from in the loss (DER++)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stockpot.batches.examples import Batch, Examples, TrainingData, concat
from stockpot.batches.outputs import logits_of, moved_to
from stockpot.methods.base import ConfigValues, Method, Task, TaskFacts, Tensors
from stockpot.methods.declare.space import Choices, Range, Space
from stockpot.methods.shared.buffer import Buffer, BufferConfig
from stockpot.seeds import generator


class ReplayConfig(BufferConfig):
    """How much of the past is kept, which examples, and how they are trained on."""

    space: ClassVar[Space] = {
        **BufferConfig.space,
        "logits_weight": Range(0.01, 5.0, log=True),
        "labels_weight": Range(0.01, 5.0, log=True),
        "per_batch": Choices((8, 16, 32, 64)),
    }

    name: Literal["replay"]
    mix: Literal["union", "batch"] = Field("union", description="one shuffled data set, or a share of every batch")
    per_batch: int = Field(
        32, ge=1, description="examples from the buffer in every batch, with mix: batch, or in each draw of der++"
    )
    loss: Literal["er", "der++"] = Field(
        "er", description="er: past examples like new ones; der++: their stored logits and their labels"
    )
    logits_weight: float | None = Field(None, ge=0, description="der++: weight of the stored logits; default 0.2")
    labels_weight: float | None = Field(None, ge=0, description="der++: weight of the labels; default 0.5")

    @model_validator(mode="after")
    def _one_way(self) -> ReplayConfig:
        if self.loss == "der++" and self.mix == "batch":
            raise ValueError("loss: der++ draws from the buffer itself: drop mix: batch")
        if self.loss == "er" and (self.logits_weight is not None or self.labels_weight is not None):
            raise ValueError("logits_weight and labels_weight belong to loss: der++")
        return self

    def searched(self, *without: str) -> Space:
        """Without the weights unless loss is der++, and without per_batch unless batches are drawn from the buffer."""
        if self.loss == "er":
            without += ("logits_weight", "labels_weight", *(["per_batch"] if self.mix == "union" else []))
        return super().searched(*without)

    def unfit(self, task: TaskFacts, before: int) -> str | None:
        """Also refuses der++ for language, which would store the logits of every token."""
        if task.language and self.loss == "der++":
            return (
                f"task {task.name!r} is text to be continued: loss: der++ would store the logits of every token of the "
                "vocabulary at every position; use loss: er."
            )
        return super().unfit(task, before)

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of the logits' and the labels' terms."""
        return (
            0.2 if self.logits_weight is None else self.logits_weight,
            0.5 if self.labels_weight is None else self.labels_weight,
        )

    def epoch_examples(self, sizes: Sequence[int]) -> int:
        """With the buffer's, where they are part of one shuffled data set."""
        apart = self.loss == "der++" or self.mix == "batch"
        return sizes[-1] + (0 if apart else self.kept_of(sizes[:-1]))


class Replay(Method[ReplayConfig]):
    """Examples of past tasks are kept in a buffer and trained on beside the new ones.

    Equation: er: loss over `task k ∪ buffer`, where the buffer holds M of the examples of tasks 1 … k−1;
    der++: `loss + a·mean (z(x₁) − z₁)² + b·CE(x₂, y₂)`, x₁ and x₂ two draws from the buffer, z₁ the stored logits
    Paper: er: experience replay, as in "On Tiny Episodic Memories in Continual Learning" (arXiv 1902.10486); der++:
    "Dark Experience for General Continual Learning" (arXiv 2004.07211), §3; herding: iCaRL (arXiv 1611.07725)
    Cost: er: more steps, or larger batches; der++: two forward and backward passes of a draw, so about three steps
    Kept: the buffer, which is past data; der++ with its logits
    Use: when some of the past data may be kept
    Reading: der++ fills its buffer at the end of a task, where the paper fills a reservoir along the way: the stored
    logits are those of the finished task's model in eval mode, and rows that it did not have are left out of the mean;
    the logits of all other rows count, the labels compete as in training; draws are in training mode and count in
    BatchNorm's statistics; a = 0.2 and b = 0.5 unless they are set; herding and balanced
    treat a class that comes again in a later task as another class, so that no domain crowds out the others; herding
    takes the plain mean of the normalised features
    """

    title = "rehearsal"
    neutral: ClassVar[ConfigValues] = {"fraction": 0.0}
    typical: ClassVar[ConfigValues] = {"fraction": 0.25}

    _task: Task

    def __init__(self, config: ReplayConfig) -> None:
        super().__init__(config)
        self._buffer = Buffer(config, keep_logits=config.loss == "der++")
        self._drawn = 0

    def training_data(self, task: Task, examples: Examples) -> TrainingData:
        """The task's examples and the buffer's, drawn before anything of this task is kept."""
        self._buffer.check(task, examples)
        self.costs.extra_memory_bytes = self._buffer.nbytes
        if not len(self._buffer) or self.config.loss == "der++":
            return TrainingData.of(examples)
        both = concat([examples, self._buffer.examples])
        if self.config.mix == "union":
            return TrainingData.of(both)
        return TrainingData(both, new=len(examples), rehearsed_per_batch=self.config.per_batch)

    def task_start(self, task: Task) -> None:
        """Starts to count the draws of this task."""
        self._task, self._drawn = task, 0

    def loss(self, loss: Tensor, logits: Tensor, batch: Batch, model: nn.Module) -> Tensor:
        """Adds the two terms of der++."""
        if self.config.loss == "er" or not len(self._buffer):
            return loss
        draws = generator(self._task.seed, "der", self._drawn)
        self._drawn += 1
        first, second = (moved_to(model, self._buffer.draw(self.config.per_batch, draws)) for _ in range(2))
        logits_weight, labels_weight = self.config.weights
        if logits_weight:
            loss = loss + logits_weight * logit_distance(logits_of(model, first), first["logits"], first["known"])
        if labels_weight:
            loss = loss + labels_weight * self._task.loss(model, second)
        return loss

    def task_end(self, task: Task, examples: Examples) -> None:
        """Fills the buffer from the finished task."""
        self._buffer.fill(task, examples)
        self.costs.stored_bytes = self._buffer.nbytes
        self.costs.stored_data_bytes = self._buffer.examples.nbytes if len(self._buffer) else 0
        self.costs.stored_statistics_bytes = self.costs.stored_bytes - self.costs.stored_data_bytes  # logits

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The buffer, and how often it was drawn from in this task."""
        tensors, values = self._buffer.state()
        return tensors, {**values, "drawn": self._drawn}

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restores the buffer. Raises StockpotError where it is damaged."""
        self._buffer.load_state(tensors, values)
        self._drawn = int(values.get("drawn", 0))


def logit_distance(logits: Tensor, stored: Tensor, known: Tensor) -> Tensor:
    """The mean squared difference over the rows that example i had when its logits were stored, the first known[i]."""
    old = torch.arange(stored.shape[1], device=stored.device) < known[:, None]
    return (logits[:, : stored.shape[1]] - stored).masked_fill(~old, 0).square().sum() / old.sum()
