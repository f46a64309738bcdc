"""L2: a pull towards the anchor in every step."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from stockpot.averaging.match import TensorPair
from stockpot.batches.examples import Batch
from stockpot.files import folder_bytes
from stockpot.methods.base import ConfigValues, Method, Task
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.anchor_config import AnchorConfig
from stockpot.methods.shared.penalty import anchor_bytes, anchored, gradient, pull, trainable
from stockpot.models.spec import ModelSpec
from stockpot.weights.tensor_memory import local_shard


class L2Config(AnchorConfig):
    """`strength` is the a of L2-SP, `new_strength` its b."""

    acts: ClassVar[str] = "penalised"
    space: ClassVar[Space] = {"strength": Range(1e-3, 1e3, log=True)}
    strength_key: ClassVar[str | None] = "strength"

    name: Literal["l2"]
    strength: float = Field(0.01, ge=0, description="a: how strongly weights are pulled to the anchor")
    new_strength: float = Field(0.0, ge=0, description="b: how strongly weights that the anchor lacks are pulled to 0")
    form: Literal["gradient", "loss", "decoupled"] = Field(
        "gradient", description="added to the gradient, to the loss (the same), or apart from it as a proximal step"
    )

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Refuses another anchor under LoRA, and form: decoupled in bf16."""
        if spec.dtype == "bfloat16" and spec.lora is None and self.form == "decoupled":
            return "form: decoupled: bf16 weights lose small steps by rounding; drop model.dtype, or use gradient."
        return super().problem_with_model(spec)

    def held_copies(self, tasks: int) -> int:
        """The anchor."""
        return 1 if tasks > 1 else 0


class L2(Method[L2Config]):
    """In every step the weights are pulled towards the anchor; rows and layers that it lacks towards zero.

    Equation: `loss + (a/2)·‖θ−θ_o‖² + (b/2)·‖θ_new‖²`; decoupled: after the step `θ ← (θ + ηa·θ_o)/(1+ηa)`
    Paper: "Explicit inductive bias for transfer learning" (L2-SP, arXiv 1802.01483)
    Cost: one pass over the weights; a copy of the anchor in memory
    Kept: nothing: the anchor is the previous model
    Use: the simplest penalty, when all weights are assumed to matter equally
    Reading: with Adam the explicit penalty is divided by √v like every gradient, so the same a pulls unequally;
    `decoupled` does not, as AdamW's weight decay does not, and is one SFA average with β = ηa/(1+ηa) after each step;
    under LoRA θ−θ_o is ΔW, no anchor is held, and A and B get the penalty's gradient by the chain rule
    """

    title = "L2"
    neutral: ClassVar[ConfigValues] = {"strength": 0.0}
    typical: ClassVar[ConfigValues] = {"strength": 0.5}

    _pairs: list[TensorPair]
    _new: list[tuple[Tensor, int]]  # tensors with the number of rows that the anchor has

    def task_start(self, task: Task) -> None:
        """Takes a copy of the anchor."""
        self._pairs, self._new = [], []
        if task.index == 0:
            self.notes.append(self.config.first_task_note(task, task.drawn))
        if not self.config.protects(task):
            return
        anchor = task.checkpoint(self.config.anchor)
        self._pairs = [pair for pair in anchored(task.model, anchor, task.new) if pair.name not in task.drawn]
        rows_of = {pair.name: pair.rows for pair in self._pairs}
        for weight in trainable(task.model):
            if weight.name not in rows_of:
                self._new.append((weight.tensor, 0))
            elif (rows := rows_of[weight.name]) is not None:
                self._new.append((weight.tensor, rows))
        self.costs.extra_memory_bytes = anchor_bytes(self._pairs)
        if self.config.anchor != "previous":  # the previous model is there anyway
            size = folder_bytes(anchor) if anchor.is_dir() else anchor.stat().st_size
            self.costs.stored_bytes = self.costs.stored_model_bytes = size

    def loss(self, loss: Tensor, logits: Tensor, batch: Batch, model: nn.Module) -> Tensor:
        """Adds the penalty to the loss, with form: loss. Micro-batches share out the penalty as they do the loss."""
        if self.config.form != "loss":
            return loss
        a, b = self.config.strength, self.config.new_strength
        if a:
            for pair in self._pairs:
                if pair.factor is not None:
                    loss = loss + (a / 2) * pair.factor.change.square().sum()
                    continue
                theta = pair.tensor if pair.rows is None else pair.tensor.narrow(0, 0, pair.rows)
                loss = loss + (a / 2) * (theta - pair.anchor).square().sum()
        if b:
            for tensor, rows in self._new:
                loss = loss + (b / 2) * tensor.narrow(0, rows, len(tensor) - rows).square().sum()
        return loss

    @torch.no_grad()
    def gradients(self, model: nn.Module, step: int) -> None:
        """Adds the penalty's gradient, with form: gradient."""
        if self.config.form != "gradient":
            return
        if self.config.strength:
            for pair in self._pairs:
                pull(pair, self.config.strength)
        if self.config.new_strength:
            for tensor, rows in self._new:
                gradient(tensor)[rows:].add_(local_shard(tensor)[rows:], alpha=self.config.new_strength)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Takes the proximal step at the step's own learning rate, with form: decoupled."""
        if self.config.form != "decoupled":
            return
        rates = {id(tensor): group["lr"] for group in optimizer.param_groups for tensor in group["params"]}
        if self.config.strength:
            for pair in self._pairs:
                theta, anchor = pair.views
                scaled = rates[id(pair.tensor)] * self.config.strength
                theta.lerp_(anchor, scaled / (1 + scaled))
        if self.config.new_strength:
            for tensor, rows in self._new:
                local_shard(tensor)[rows:].div_(1 + rates[id(tensor)] * self.config.new_strength)
