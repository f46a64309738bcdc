"""What EWC, SI and MAS share: importances of the weights, and the penalty that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stockpot.averaging.match import TensorPair
from stockpot.averaging.model_tensors import ModelTensor
from stockpot.methods.base import BaseConfig, Method, Task, Tensors
from stockpot.methods.shared.penalty import anchor_bytes, anchored, fitted, grown, pull, trainable
from stockpot.models.spec import ModelSpec

_PREFIX = "importance/"


class ImportanceConfig(BaseConfig):
    """What methods with importances have in common: a penalty of some strength."""

    strength: float

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Refuses stacked adapters: importances belong to whole weights."""
        return f"it needs the merged weights after each task; {spec.merged_instead}." if spec.adapts else None

    def held_copies(self, tasks: int) -> int:
        """The anchor and the importances."""
        return 2 if tasks > 1 else 0


ImportanceT = TypeVar("ImportanceT", bound=ImportanceConfig)


class ImportanceMethod(Method[ImportanceT]):
    """Pulls each weight to where the last task left it, as strongly as it mattered to the tasks so far.

    Equation: `g ← g + factor·Ω·(θ − θ*)`; under LoRA θ − θ* is ΔW, and Ω that of the weights that adapters change
    """

    def __init__(self, config: ImportanceT) -> None:
        super().__init__(config)
        self.importance: Tensors = {}  # Ω by name, as of the task that it was computed in
        self._pairs: list[TensorPair] = []
        self._fitted: Tensors = {}
        self._changing: set[str] | None = None  # the weights that adapters change; None where all are trained

    @property
    def factor(self) -> float:
        """What Ω·(θ−θ*) is multiplied by: λ, or 2λ where the method's penalty has no ½."""
        return self.config.strength

    def task_start(self, task: Task) -> None:
        """Opens the anchor θ*, the model before the task, where anything is important."""
        self._pairs, self._fitted = [], {}
        if task.index == 0 and task.origin == "checkpoint" and not self.importance:
            self.notes.append(self._unprotected(task))
        self._changing = {weight.name for weight in trainable(task.model)} if task.adapted else None
        if self.importance and self.factor:
            self._pairs = anchored(task.model, task.checkpoint("previous"), task.new)
            self._fitted = self.fit(self.importance, trainable(task.model), "the importances")
            pulled = [pair for pair in self._pairs if pair.name in self._fitted]
            importances = sum(self._fitted[pair.name].nbytes for pair in pulled)
            self.costs.extra_memory_bytes = anchor_bytes(pulled) + importances

    def _unprotected(self, task: Task) -> str:
        """Importances come from examples, and the stream has none of the data that the start model was trained on."""
        remedy = "; start_fisher would give them" if "start_fisher" in type(self.config).model_fields else ""
        return (
            f"task {task.name!r} is the first and was learnt as by plain fine-tuning: {self.config.name} knows no "
            f"importances of the start model's weights{remedy}"
        )

    def fit(self, values: Mapping[str, Tensor], live: list[ModelTensor], label: str) -> Tensors:
        """The values in the shapes of the model; see `fitted`."""
        return fitted(values, live, f"{self.config.name}: {label}")

    @torch.no_grad()
    def gradients(self, model: nn.Module, step: int) -> None:
        """Adds the penalty's gradient."""
        for pair in self._pairs:
            if (importance := self._fitted.get(pair.name)) is not None:
                pull(pair, self.factor, importance if pair.rows is None else importance.narrow(0, 0, pair.rows))

    def add(self, importance: Mapping[str, Tensor], decay: float = 1.0) -> None:
        """Ω ← decay·Ω + importance."""
        for name, fresh in importance.items():
            if self._changing is not None and name not in self._changing:
                continue
            old = self.importance.get(name)
            self.importance[name] = fresh if old is None else fresh + decay * grown(old.to(fresh), fresh.shape)
        stored = sum(tensor.nbytes for tensor in self.importance.values())
        self.costs.stored_bytes = self.costs.stored_statistics_bytes = stored

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The importances; their anchor is a model of the run, and not repeated here."""
        return {_PREFIX + name: tensor for name, tensor in self.importance.items()}, {}

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restores the importances of the task before; they do not change inside a task."""
        self.importance = {
            name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)
        }
