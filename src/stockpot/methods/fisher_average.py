"""Fisher averaging: the mean of the models of all tasks, weighted by how much each weight matters to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import nn

from stockpot.batches.examples import Examples
from stockpot.importance.fisher import FisherKind, default_kind, fisher
from stockpot.methods.base import Task, TaskFacts
from stockpot.methods.shared.fisher_kinds import problem_with_kind
from stockpot.methods.shared.merged import Merged, MergedConfig, filled, floating
from stockpot.seeds import generator


class FisherAverageConfig(MergedConfig):
    """Which Fisher, and from how many examples."""

    of_models: ClassVar[bool] = True

    name: Literal["fisher_average"]
    fisher: FisherKind | None = Field(
        None,
        description="exact | sample | empirical | predicted | batched; default exact where the whole stream has up to "
        "100 output rows, else sample; one for all tasks",
    )
    samples: int | None = Field(500, ge=1, description="examples that it is estimated from; null: all")

    def decided(self, rows: int, language: bool) -> Self:
        """Fixes one variant of the Fisher for all tasks: a sum over variants has no meaning."""
        return self.model_copy(update={"fisher": self.fisher or default_kind(rows, language)})

    def problem_in(self, model: nn.Module, tasks: Sequence[TaskFacts]) -> str | None:
        """Refuses a Fisher that the tasks cannot have."""
        return problem_with_kind(self.fisher, tasks) or super().problem_in(model, tasks)

    def held_copies(self, tasks: int) -> int:
        """Also a Fisher for each of them."""
        return 2 * (tasks - 1)


class FisherAverage(Merged[FisherAverageConfig]):
    """After each task the model is the mean of the models of all tasks so far, weighted by their Fisher information.

    Equation: `θ = Σ F_i∘θ_i / Σ F_i`, F_i the diagonal of task i's Fisher at its own model θ_i, mean over examples
    Paper: "Merging models with Fisher-weighted averaging" (arXiv 2111.09832), there of models of the same start weights
    Cost: nothing; after the task a pass over some of its examples, and a merge
    Kept: the start model, and for each task a model and a Fisher
    Use: like soup, where each task needs other weights
    Reading: parallel as in the paper. 1e-12 is added to every F, which makes it the plain mean where every F is 0,
    for weights that do not matter to any task. Rows that a model lacked when it was trained have F = 0 for it; rows of
    the output layer that a task never trained are merged like all others
    """

    title = "Fisher averaging"

    statistics: ClassVar[frozenset[str]] = frozenset({"fishers"})

    def task_end(self, task: Task, examples: Examples) -> None:
        """Estimates the Fisher at what training left, and merges."""
        config = self.config
        information = fisher(
            task.model,
            examples,
            config.fisher or default_kind(0, task.language),  # a run has it from `FisherAverageConfig.decided`
            logits=task.logits,
            samples=config.samples,
            draws=generator(task.seed, "fisher"),
            problem=task.problem,
        )
        self.kept.setdefault("fishers", []).append({name: tensor.cpu() for name, tensor in information.items()})
        super().task_end(task, examples)

    def rule(self, task: Task) -> tuple[str, dict[str, Any]]:
        """`fisher`; the mean of one model is that model."""
        if len(self.kept["fishers"]) == 1:
            return "linear", {}
        unknown = {name: torch.zeros(tensor.shape) for name, tensor in floating(task.model).items()}
        return "fisher", {"fisher": [filled(tensors, unknown) for tensors in self.kept["fishers"]]}
