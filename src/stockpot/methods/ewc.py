"""EWC: Elastic Weight Consolidation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.errors import StockpotError
from stockpot.importance.fisher import FisherKind, convention, default_kind, fisher, load_fisher
from stockpot.methods.base import ConfigValues, Task, TaskFacts, Tensors
from stockpot.methods.declare.space import Range, Space
from stockpot.methods.shared.fisher_kinds import problem_with_kind
from stockpot.methods.shared.importances import ImportanceConfig, ImportanceMethod
from stockpot.methods.shared.penalty import add_slope, gap, trainable
from stockpot.seeds import generator

_SLOPE = "slope/"


class EWCConfig(ImportanceConfig):
    """λ means nothing without the Fisher's variant: both are written into the results."""

    space: ClassVar[Space] = {"strength": Range(1.0, 1e8, log=True), "gamma": Range(0.5, 1.0, limits=(0, 1))}
    strength_key: ClassVar[str | None] = "strength"
    path_keys: ClassVar[Mapping[str, Sequence[str]]] = {"start_fisher": ()}

    name: Literal["ewc"]
    strength: float = Field(100.0, ge=0, description="λ: weight of the penalty, which has the ½ of the paper")
    mode: Literal["separate", "online", "summed"] = Field(
        "separate",
        description="one Fisher and anchor a task; or all Fishers at the newest anchor, with or without decay by gamma",
    )
    gamma: float = Field(0.9, ge=0, le=1, description="γ, with mode: online: what remains of the older Fishers")
    fisher: FisherKind | None = Field(
        None,
        description="exact | sample | empirical | predicted | batched; default exact where the whole stream has up to "
        "100 output rows, else sample, as for text to be continued; one for all tasks",
    )
    samples: int | None = Field(None, ge=1, description="examples that the Fisher is the mean over; default all")
    batch_size: int = Field(64, ge=1, description="examples at a time; changes the values of `batched` alone")
    start_fisher: str | None = Field(
        None, description="folder with the Fisher of the start model, which is then protected as well"
    )

    def searched(self, *without: str) -> Space:
        """Without γ unless mode is online."""
        return super().searched(*without, *(["gamma"] if self.mode != "online" else []))

    def decided(self, rows: int, language: bool) -> Self:
        """Fixes one variant of the Fisher for all tasks: a sum over variants has no meaning."""
        return self.model_copy(update={"fisher": self.fisher or default_kind(rows, language)})

    def problem_in(self, model: nn.Module, tasks: Sequence[TaskFacts]) -> str | None:
        """A Fisher that the tasks cannot have; raises StockpotError for a start Fisher that is missing or unfit."""
        if problem := problem_with_kind(self.fisher, tasks):
            return problem
        if self.start_fisher is not None:
            load_fisher(Path(self.start_fisher), model)
        return None

    def held_copies(self, tasks: int) -> int:
        """Also the slope of older penalties, where each task has its own anchor."""
        return 3 if self.mode == "separate" and tasks > 2 else super().held_copies(tasks)


class ElasticWeightConsolidation(ImportanceMethod[EWCConfig]):
    """Each weight is held where a task left it, as strongly as the task's Fisher information says.

    Equation: `loss + (λ/2)·Σ_tasks Σ F_t (θ−θ*_t)²`; online `F ← γF + F_t` and summed (γ = 1) hold all at the newest θ*
    Paper: "Overcoming catastrophic forgetting in neural networks" (PNAS 2017, arXiv 1612.00796); online:
    "Progress & Compress" (arXiv 1805.06370)
    Cost: one pass over weights, anchor and F, two with separate anchors; after a task a pass over its examples, for the
    exact Fisher with one backward a class
    Kept: F, and with separate anchors G: one or two tensors of the model's size
    Use: when some weights matter more than others, and the tasks are few; expect to search λ over several decades
    Reading: F is the mean over examples at θ*, in eval mode. Separate anchors need no copies: the sum of their pulls is
    `S(θ−θ*_k) + G` with `S = Σ F_t` and `G = Σ F_t (θ*_k−θ*_t)`, two tensors a weight for any number of tasks; of a
    causal language model an example is a sequence, its log-likelihood the sum over the positions that are learnt; under
    LoRA F and θ are those of the folded weights, and A and B get the penalty's gradient by the chain rule
    """

    title = "EWC"
    neutral: ClassVar[ConfigValues] = {"strength": 0.0}
    typical: ClassVar[ConfigValues] = {"strength": 20.0}

    def __init__(self, config: EWCConfig) -> None:
        super().__init__(config)
        self._slope: Tensors = {}  # G
        self._fitted_slope: Tensors = {}

    def task_start(self, task: Task) -> None:
        """Opens the anchor; before the first task, the Fisher of the start model."""
        if task.index == 0 and self.config.start_fisher is not None:
            self._open_start(task, self.config.start_fisher)
        super().task_start(task)
        self._fitted_slope = self.fit(self._slope, trainable(task.model), "the pulls to earlier anchors")
        self.costs.extra_memory_bytes += sum(tensor.nbytes for tensor in self._fitted_slope.values())

    def _open_start(self, task: Task, path: str) -> None:
        importance, how = load_fisher(Path(path), None if task.adapted else task.model)
        kind, variant = self._kind(task), how.get("variant")
        if variant != kind or how.get("reduction") != "mean":
            raise StockpotError(
                f"ewc: {path} holds a Fisher that is {variant}, {how.get('reduction')} over examples; this run's are "
                f"{kind}, mean, and one λ weighs both: set fisher to the same variant, or estimate it again."
            )
        names = {weight.name for weight in trainable(task.model)} if task.adapted else set(importance)
        self.importance = {name: tensor for name, tensor in importance.items() if name in names}

    def _kind(self, task: Task) -> FisherKind:
        return self.config.fisher or default_kind(0, task.language)  # a run has it from `EWCConfig.decided`

    @torch.no_grad()
    def gradients(self, model: nn.Module, step: int) -> None:
        """Adds the penalty's gradient."""
        super().gradients(model, step)
        for pair in self._pairs:
            if (slope := self._fitted_slope.get(pair.name)) is not None:
                add_slope(pair, slope, self.factor)

    def task_end(self, task: Task, examples: Examples) -> None:
        """Adds the task's Fisher."""
        config, kind = self.config, self._kind(task)
        if config.mode == "separate":
            self._slope = self._moved_slope()
        information = fisher(
            task.model,
            examples,
            kind,
            logits=task.logits,
            batch_size=config.batch_size,
            samples=config.samples,
            draws=generator(task.seed, "fisher"),
            problem=task.problem,
        )
        self.add(information, config.gamma if config.mode == "online" else 1.0)
        self.costs.stored_statistics_bytes += sum(tensor.nbytes for tensor in self._slope.values())
        self.costs.stored_bytes = self.costs.stored_statistics_bytes
        many = min(config.samples or len(examples), len(examples))
        how = convention(kind, many, config.batch_size, task.language, task.problem)
        description = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in how.items() if value is not None)
        self.notes.append(
            f"ewc: penalty (λ/2)·ΣF(θ−θ*)², λ = {config.strength:g}, {config.mode}; F of task {task.name!r}: "
            f"{description}; where there is no ½, λ is {config.strength / 2:g}, "
            f"with sums over the examples {config.strength / many:g}"
        )

    @torch.no_grad()
    def _moved_slope(self) -> Tensors:
        """G ← G + S·(θ*_new − θ*_old): moving the newest anchor leaves the older ones in place."""
        moved = dict(self._fitted_slope)
        for pair in self._pairs:
            if (importance := self._fitted.get(pair.name)) is None:
                continue
            added = torch.zeros_like(importance)
            rows = slice(None) if pair.rows is None else slice(0, pair.rows)
            added[rows] = importance[rows] * gap(pair)
            moved[pair.name] = moved[pair.name] + added if pair.name in moved else added
        return moved

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The Fishers, and with separate anchors the pulls to the earlier ones."""
        tensors, values = super().state()
        return {**tensors, **{_SLOPE + name: tensor for name, tensor in self._slope.items()}}, values

    def load_state(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restores Fishers and pulls."""
        super().load_state(tensors, values)
        self._slope = {name.removeprefix(_SLOPE): tensor for name, tensor in tensors.items() if name.startswith(_SLOPE)}
