"""SI: weights that lowered the loss on their way are held in place."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from stockpot.averaging.model_tensors import ModelTensor
from stockpot.batches.examples import Examples
from stockpot.methods.base import ConfigValues, Task, Tensors
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.importances import ImportanceConfig, ImportanceMethod
from stockpot.methods.shared.penalty import gradient, trainable
from stockpot.models.spec import ModelSpec
from stockpot.weights.tensor_memory import local_shard


class SIConfig(ImportanceConfig):
    """`strength` is the c of the paper."""

    space: ClassVar[Space] = {"strength": Range(0.01, 1e5, log=True)}
    strength_key: ClassVar[str | None] = "strength"

    name: Literal["si"]
    strength: float = Field(0.1, ge=0, description="c: weight of the penalty")
    damping: float = Field(0.1, gt=0, description="ξ: keeps weights that hardly moved from seeming important")

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Refuses LoRA: ω needs the gradient of every weight at every step."""
        if spec.lora is None:
            return None
        return "it needs gradients of whole weights, which LoRA does not compute: use ewc or mas, or drop model.lora."

    def held_copies(self, tasks: int) -> int:
        """Also the start, ω, and in a step the weights and gradients before it."""
        return 4 + super().held_copies(tasks)


class SynapticIntelligence(ImportanceMethod[SIConfig]):
    """While a task is learnt, each weight's share of the fall in loss is summed up; later it is held accordingly.

    Equation: `loss + c·Σ Ω (θ−θ*)²`, `Ω ← Ω + max(0, ω)/((θ_end−θ_start)² + ξ)`, `ω = −Σ_steps g·Δθ`
    Paper: "Continual learning through synaptic intelligence" (arXiv 1703.04200)
    Cost: a few passes over the weights, and four copies of them in memory
    Kept: Ω, a tensor of the model's size
    Use: like EWC, without a pass over the data at the end of a task
    Reading: g is the gradient of the task's own loss, before the penalty and before clipping; Δθ is the step that the
    optimizer took; a weight whose ω is negative counts as unimportant, since a penalty must not push;
    not with LoRA, which computes no gradients of whole weights
    """

    title = "SI"
    neutral: ClassVar[ConfigValues] = {"strength": 0.0}
    typical: ClassVar[ConfigValues] = {"strength": 5.0}

    def __init__(self, config: SIConfig) -> None:
        super().__init__(config)
        self._path: Tensors = {}
        self._start: Tensors = {}
        self._step: dict[str, tuple[Tensor, Tensor]] = {}
        self._live: list[ModelTensor] = []

    @property
    def factor(self) -> float:
        """The paper's penalty has no ½."""
        return 2 * self.config.strength

    def task_start(self, task: Task) -> None:
        """Copies the weights as the task starts."""
        super().task_start(task)
        self._live = trainable(task.model)
        self._start = {weight.name: local_shard(weight.tensor.detach()).clone() for weight in self._live}
        self._path = {name: torch.zeros_like(tensor) for name, tensor in self._start.items()}
        size = sum(tensor.nbytes for tensor in self._start.values())
        self.costs.extra_memory_bytes += 4 * size  # the start, ω, and in a step the weights and gradients before it

    @torch.no_grad()
    def gradients(self, model: nn.Module, step: int) -> None:
        """Copies gradients and weights before the step, then adds the penalty's gradient."""
        self._step = {
            weight.name: (local_shard(weight.tensor.detach()).clone(), gradient(weight.tensor).clone())
            for weight in self._live
            if weight.tensor.grad is not None
        }
        super().gradients(model, step)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """ω ← ω − g·Δθ."""
        for weight in self._live:
            if weight.name in self._step:
                before, slope = self._step[weight.name]
                self._path[weight.name].addcmul_(slope, before.sub_(local_shard(weight.tensor)))
        self._step = {}

    @torch.no_grad()
    def task_end(self, task: Task, examples: Examples) -> None:
        """Turns ω into importances."""
        end = {weight.name: local_shard(weight.tensor.detach()) for weight in self._live}
        self.add(
            {
                name: path.clamp(min=0) / ((end[name] - self._start[name]).square() + self.config.damping)
                for name, path in self._path.items()
            }
        )
        self._path, self._start = {}, {}

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The importances, and inside a task ω so far."""
        tensors, values = super().state()
        return {**tensors, **{f"path/{name}": tensor for name, tensor in self._path.items()}}, values

    def load_state(self, tensors: Any, values: dict[str, Any]) -> None:
        """Restores importances and ω."""
        super().load_state(tensors, values)
        for name in self._path:
            if (saved := tensors.get(f"path/{name}")) is not None:
                self._path[name] = saved.to(self._path[name])
