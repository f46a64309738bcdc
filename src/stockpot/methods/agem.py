"""A-GEM: a gradient that would raise the loss on the buffer is projected."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stockpot.batches.examples import Examples, TrainingData
from stockpot.batches.outputs import moved_to
from stockpot.methods.base import ConfigValues, Method, Task, Tensors
from stockpot.methods.shared.buffer import Buffer, BufferConfig
from stockpot.seeds import derive, generator


class AGEMConfig(BufferConfig):
    """How much of the past is kept, which examples, and how many judge each step."""

    name: Literal["agem"]
    per_step: int = Field(64, ge=1, description="examples from the buffer in the reference gradient of a step")


class AveragedGradientEpisodicMemory(Method[AGEMConfig]):
    """The gradient of a step keeps its part that does not raise the mean loss on a draw from the buffer.

    Equation: `g ← g − ⟨g, g_ref⟩ / ⟨g_ref, g_ref⟩ · g_ref` if `⟨g, g_ref⟩ < 0`, over all trainable parameters at once
    Paper: "Efficient Lifelong Learning with A-GEM" (arXiv 1812.00420), §4
    Cost: a forward and backward pass of the draw, and two inner products of the gradients: two steps and more
    Kept: the buffer, which is past data
    Use: when past data may be kept but not trained on; rehearsal with the same buffer kept more on Split MNIST
    Reading: any optimizer will do: the projection acts on its gradients, once a step and before clipping; past
    examples are never trained on; the reference pass is in training mode, with dropout's masks drawn for the step, and
    leaves BatchNorm's statistics and the global generators as they were; under LoRA the parameters are A and B
    """

    title = "A-GEM"
    neutral: ClassVar[ConfigValues] = {"count": 0}
    typical: ClassVar[ConfigValues] = {"count": 10, "per_step": 6}

    _task: Task

    def __init__(self, config: AGEMConfig) -> None:
        super().__init__(config)
        self._buffer = Buffer(config)

    def training_data(self, task: Task, examples: Examples) -> TrainingData:
        """The task's examples alone."""
        self._buffer.check(task, examples)
        self.costs.extra_memory_bytes = self._buffer.nbytes
        return TrainingData.of(examples)

    def task_start(self, task: Task) -> None:
        """Remembers the task, whose seed the draws come from."""
        self._task = task

    def gradients(self, model: nn.Module, step: int) -> None:
        """Projects the gradient where it would raise the loss on a draw from the buffer."""
        if not len(self._buffer):
            return
        batch = moved_to(model, self._buffer.draw(self.config.per_step, generator(self._task.seed, "agem", step)))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with undisturbed(model, derive(self._task.seed, "agem dropout", step)), torch.enable_grad():
            loss = self._task.loss(model, batch)
            reference = torch.autograd.grad(loss, parameters, allow_unused=True)
        project(parameters, reference)

    def task_end(self, task: Task, examples: Examples) -> None:
        """Fills the buffer from the finished task."""
        self._buffer.fill(task, examples)
        self.costs.stored_bytes = self.costs.stored_data_bytes = self._buffer.nbytes

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The buffer."""
        return self._buffer.state()

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restores the buffer. Raises StockpotError where it is damaged."""
        self._buffer.load_state(tensors, values)


@torch.no_grad()
def project(parameters: list[nn.Parameter], reference: tuple[Tensor | None, ...]) -> None:
    """Removes the component along `reference` from the gradients if it points the other way; None means zero."""
    pairs = list(zip(parameters, reference, strict=True))
    along = _inner([(parameter.grad, other) for parameter, other in pairs])
    square = _inner([(other, other) for other in reference]) if along < 0 else 0.0
    if not square:  # nothing to remove, or a reference whose square underflows
        return
    share = along / square
    for parameter, other in pairs:
        if other is not None:
            parameter.grad = other * -share if parameter.grad is None else parameter.grad.add_(other, alpha=-share)


def _inner(pairs: list[tuple[Tensor | None, Tensor | None]]) -> float:
    """⟨a, b⟩ over all tensors, in float64; in float32 on Apple's GPUs, which lack float64."""
    terms = []
    for left, right in pairs:
        if left is not None and right is not None:
            wide = torch.float32 if left.device.type == "mps" else torch.float64
            terms.append((left.to(wide) * right.to(wide)).sum())
    return float(torch.stack(terms).sum()) if terms else 0.0


@contextlib.contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """A forward pass in here draws from `seed`, and leaves the generators and the model's buffers as they were.

    The pass only measures: a step that is not projected must be plain fine-tuning's, and so must the steps after it.
    """
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)
