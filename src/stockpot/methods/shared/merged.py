"""What methods that merge share: after each task the model becomes a merge of all that was learnt so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.errors import StockpotError
from stockpot.files import folder_bytes
from stockpot.merging.api import Options, merge
from stockpot.methods.base import ConfigValues, Method, StartsFrom, Task, Tensors
from stockpot.methods.shared.first_task import FirstTaskConfig
from stockpot.models.names import plain_tensors, under_own_names
from stockpot.models.spec import ModelSpec
from stockpot.weights.checkpoint import open_checkpoint
from stockpot.weights.tensor_memory import group_tied

# What the checkpoints of a plain run tell exactly: each task started from what training left of the one before.
CHAIN_OF_RAW_MODELS: ConfigValues = {"mode": "chain", "continue_from": "raw"}


class MergedConfig(FirstTaskConfig):
    """Where each task starts, and what its task vector is measured from."""

    acts: ClassVar[str] = "merged"
    default_vectors: ClassVar[str] = "consecutive"  # of a chain
    of_models: ClassVar[bool] = False  # whether whole models are averaged: consecutive vectors do not add up to models

    mode: Literal["parallel", "chain"] = Field(
        "parallel", description="each task is trained from the start weights, or one after the other"
    )
    continue_from: Literal["raw", "merged"] | None = Field(
        None, description="in a chain, what the next task starts from: what training left (default), or the merge"
    )
    vectors: Literal["consecutive", "start"] | None = Field(
        None, description="in a chain, τ is taken from what the task itself started from, or from the start weights"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> MergedConfig:
        if self.mode == "parallel" and self.continue_from is not None:
            raise ValueError("continue_from is for mode: chain; in parallel every task starts from the start weights")
        if self.mode == "parallel" and self.vectors == "consecutive":
            raise ValueError("vectors: consecutive is for mode: chain; in parallel all tasks have the same start")
        if self.of_models and self.vectors == "consecutive":
            raise ValueError("this method averages models, and vectors: consecutive does not make models")
        return self

    @property
    def starts_from(self) -> StartsFrom:
        """The start model in parallel, else the task before."""
        return "pretrained" if self.mode == "parallel" else "previous"

    @property
    def raw(self) -> bool:
        """Whether a task starts from what training left, and not from the merge."""
        return self.mode == "chain" and self.continue_from != "merged"

    @property
    def consecutive(self) -> bool:
        """Whether τ is taken from what the task itself started from."""
        default = "start" if self.of_models else self.default_vectors
        return self.mode == "chain" and (self.vectors or default) == "consecutive"

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Refuses stacked adapters, which are not weights to merge."""
        return f"it merges whole weights after each task; {spec.merged_instead}." if spec.adapts else None

    def held_copies(self, tasks: int) -> int:
        """What the tasks before left."""
        return tasks - 1


MergedT = TypeVar("MergedT", bound=MergedConfig)


class Merged(Method[MergedT]):
    """After task t the model becomes `rule(θ_0 + τ_1, …, θ_0 + τ_t)` over the base θ_0, the start weights.

    τ_t is θ_t minus θ_0, or minus what the task itself started from. All floating weights take part, tied ones once;
    floating buffers, BatchNorm's running statistics, are the mean of those that the tasks left, whatever the rule;
    integer buffers stay as the newest model has them. Rows that θ_0 lacks have as base the values they were drawn
    with, which are those of older models, too. Subclasses say the rule.
    """

    statistics: ClassVar[frozenset[str]] = frozenset()  # what is kept that is not a model

    def __init__(self, config: MergedT) -> None:
        super().__init__(config)
        # points: θ_0 + τ of each task; raw: what training left, where that is not a point; rows: those that θ_0 lacks.
        self.kept: dict[str, list[Tensors]] = {}
        self._training = False

    def rule(self, task: Task) -> tuple[str, dict[str, Any]]:
        """The name of the merge rule, and its parameters in `stockpot.merge`."""
        raise NotImplementedError

    @torch.no_grad()
    def task_start(self, task: Task) -> None:
        """Keeps new rows as they were drawn; with `continue_from: raw` puts the raw weights into the model."""
        self._training = True
        live, rows = floating(task.model), self.kept.setdefault("rows", [{}])[0]
        for name, origin in self._base(task).items():
            if len(new := _more_rows(name, live[name], origin)):
                rows[name] = torch.cat([rows[name], new]) if name in rows else new
        if self.config.raw and "points" in self.kept:
            for name, tensor in self._raw().items():
                target = live[name]
                (target if target.shape == tensor.shape else target[: len(tensor)]).copy_(tensor)
        self.costs.extra_memory_bytes = _bytes(self.kept)

    def task_end(self, task: Task, examples: Examples) -> None:
        """Keeps what was learnt, and merges."""
        self.post_hoc(task)

    @torch.no_grad()
    def post_hoc(self, task: Task) -> None:
        """Keeps what was learnt, and merges: no step and no example is needed."""
        base = self._base(task)
        point = self._point(task, base)
        self.kept.setdefault("points", []).append(point)
        self._training = False
        self.costs.stored_bytes = _bytes(self.kept) + folder_bytes(task.checkpoint("pretrained"))
        statistics = {kind: many for kind, many in self.kept.items() if kind in self.statistics}
        self.costs.stored_statistics_bytes = _bytes(statistics)
        self.costs.stored_model_bytes = self.costs.stored_bytes - self.costs.stored_statistics_bytes
        if task.index == 0:
            self.notes.append(self.config.first_task_note(task))
        if not self.config.protects(task):
            return
        wall, cpu = time.perf_counter(), time.process_time()
        self._merge(task, base)
        self.costs.averages = 1
        self.costs.averaging_seconds = time.perf_counter() - wall
        self.costs.averaging_cpu_seconds = time.process_time() - cpu

    def _point(self, task: Task, base: Tensors) -> Tensors:
        trained = {name: tensor.cpu().clone() for name, tensor in floating(task.model).items()}
        if not self.config.consecutive:
            return trained
        if "points" not in self.kept:
            point = {name: tensor.clone() for name, tensor in trained.items()}
        else:
            start = filled(self._raw() if self.config.raw else self._saved(task, "previous"), base)
            statistics = set(dict(task.model.named_buffers()))
            point = {
                name: tensor.clone() if name in statistics else _wide(base[name]) + (_wide(tensor) - _wide(start[name]))
                for name, tensor in trained.items()
            }
        if self.config.raw:
            self.kept["raw"] = [trained]
        return point

    def _merge(self, task: Task, base: Tensors) -> None:
        rule, parameters = self.rule(task)
        points = [filled(point, base) for point in self.kept["points"]]
        # A merge that is not finite is reported after the task, with what to do about it.
        options = Options(allow_nonfinite=True)
        statistics = set(dict(task.model.named_buffers())) & set(base)
        weights = [_without(statistics, point) for point in points]
        merged = merge(rule, weights, _without(statistics, base), options=options, **parameters)
        if statistics:  # a sum of their changes is not a statistic: a variance could fall below zero
            merged |= merge("linear", [{name: point[name] for name in statistics} for point in points], options=options)
        for name, tensor in floating(task.model).items():
            tensor.copy_(merged[name])
        self.notes.append(self._note(rule, parameters, len(points)))

    def _note(self, rule: str, parameters: Mapping[str, Any], tasks: int) -> str:
        config = self.config
        shown = {"λ" if key == "lambda_" else key: value for key, value in parameters.items() if key != "seed"}
        settings = [f"{key}={value}" for key, value in shown.items() if isinstance(value, float | str)]
        how = "parallel" if config.mode == "parallel" else f"chain of {'raw' if config.raw else 'merged'} models"
        since = "consecutive" if config.consecutive else "from the start"
        many = f"{tasks} task{'s' * (tasks > 1)}"
        return f"merged {many} by {' '.join([rule, *settings])} (mode: {how}, vectors: {since})"

    def _raw(self) -> Tensors:
        return (self.kept.get("raw") or self.kept["points"])[-1]

    def _base(self, task: Task) -> Tensors:
        rows = self.kept.get("rows", [{}])[0]
        return {
            name: torch.cat([tensor, rows[name].to(tensor)]) if name in rows else tensor
            for name, tensor in self._saved(task, "pretrained").items()
        }

    @staticmethod
    def _saved(task: Task, which: str) -> Tensors:
        """A saved model's floating tensors by the first of the model's own names for each."""
        checkpoint = open_checkpoint(task.checkpoint(which))
        saved, _ = under_own_names(checkpoint, task.model)
        tensors = {}
        for names, _ in _tied(task.model):
            name = next((name for name in names if name in saved), None)
            if name is None:
                raise StockpotError(f"{checkpoint.path} has no tensor {names[0]!r}: it belongs to another model.")
            tensors[names[0]] = saved[name]
        return tensors

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What is merged next time; empty within a task, where it does not change."""
        if self._training:
            return {}, {}
        return {
            f"{kind}/{number}/{name}": tensor
            for kind, many in self.kept.items()
            for number, tensors in enumerate(many)
            for name, tensor in tensors.items()
        }, {}

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restores what was kept between tasks."""
        groups: dict[str, dict[int, Tensors]] = {}
        for key, tensor in tensors.items():
            kind, number, name = key.split("/", 2)
            groups.setdefault(kind, {}).setdefault(int(number), {})[name] = tensor
        if groups:
            self.kept = {kind: [many[number] for number in sorted(many)] for kind, many in groups.items()}


def floating(model: nn.Module) -> Tensors:
    """The floating tensors of a model's state dict, not copied; tied ones once, under the first of their names.

    With a LoRA adapter, those of the plain model.
    """
    return {names[0]: tensor for names, tensor in _tied(model)}


def _tied(model: nn.Module) -> list[tuple[list[str], Tensor]]:
    return group_tied(
        (name, tensor)
        for name, tensor in plain_tensors(model).items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel()
    )


def _more_rows(name: str, tensor: Tensor, origin: Tensor) -> Tensor:
    """A copy of the rows that the tensor has beyond those of the start weights."""
    if tensor.shape == origin.shape:
        return tensor.new_empty(0)
    if tensor.dim() == 0 or tensor.shape[1:] != origin.shape[1:] or len(tensor) < len(origin):
        raise StockpotError(
            f"'{name}' has the shape {tuple(tensor.shape)}, and {tuple(origin.shape)} in the start weights: "
            "only models of the same shape can be merged, except for added rows."
        )
    return tensor[len(origin) :].cpu().clone()


def filled(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Tensors:
    """The tensors, with the base's rows added where they have fewer."""
    return {
        name: tensor if tensor.shape == base[name].shape else torch.cat([tensor, base[name][len(tensor) :].to(tensor)])
        for name, tensor in tensors.items()
    }


def _without(names: set[str], tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _bytes(kept: Mapping[str, Sequence[Mapping[str, Tensor]]]) -> int:
    return sum(tensor.nbytes for many in kept.values() for tensors in many for tensor in tensors.values())
