"""LwF: the model from before the task teaches the model that learns it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stockpot.batches.examples import Batch
from stockpot.batches.losses import SINGLE_LABEL, ProblemType, distillation
from stockpot.batches.outputs import evaluation_mode, learnt_logits, logits_of
from stockpot.methods.base import ConfigValues, Method, Task, TaskFacts
from stockpot.methods.declare.space import Choices, Range, Space
from stockpot.methods.shared.first_task import FirstTaskConfig


class LwFConfig(FirstTaskConfig):
    """How strongly the old answers count, and how soft they are."""

    acts: ClassVar[str] = "distilled"
    space: ClassVar[Space] = {"strength": Range(0.01, 100.0, log=True), "temperature": Choices((1.0, 2.0, 4.0))}
    strength_key: ClassVar[str | None] = "strength"

    name: Literal["lwf"]
    strength: float = Field(1.0, ge=0, description="λ: weight of the distillation")
    temperature: float = Field(2.0, gt=0, description="T: divides the logits of teacher and student")

    def problem_in(self, model: nn.Module, tasks: Sequence[TaskFacts]) -> str | None:
        """Refuses a temperature where there are no logits to divide."""
        if "temperature" in self.model_fields_set and any(task.problem == "regression" for task in tasks):
            return "temperature divides logits, and a regression has numbers instead: drop the key."
        return super().problem_in(model, tasks)

    def problem_with(self, tasks: int) -> str | None:
        """None: the first task of a classifier has no teacher, whatever comes after it."""
        return None

    def held_copies(self, tasks: int) -> int:
        """The old model."""
        return 1 if tasks > 1 else 0


class LearningWithoutForgetting(Method[LwFConfig]):
    """The model that the task started from answers the task's own examples, and its answers in the old rows are kept.

    Equation: `loss + λ·T²·KL(softmax(z_old/T) ‖ softmax(z/T))`, over the output rows of earlier tasks; with several
    labels each row's σ takes the place of softmax, in a regression the term is `λ·(z − z_old)²`, the mean over rows
    Paper: "Learning without forgetting" (arXiv 1606.09282)
    Cost: a forward pass of the old model, held in memory
    Kept: nothing: the teacher is the previous model
    Use: when no data may be kept and the new task's inputs look like the old ones'
    Reading: T² keeps the gradients at one scale for every T (Hinton, arXiv 1503.02531, §2); with a head for each task
    every old head is distilled by itself; the teacher answers in eval mode, the same inputs as the student's; of a
    causal language model the whole vocabulary, the mean over the positions where something is to be learnt, in the
    first task too where the start model comes from a checkpoint; a classifier's start model has no old rows to answer
    with
    """

    title = "LwF"
    neutral: ClassVar[ConfigValues] = {"strength": 0.0}
    typical: ClassVar[ConfigValues] = {"strength": 2.0}

    _teacher: nn.Module | None = None
    _groups: list[Any]  # of columns
    _problem: ProblemType

    def task_start(self, task: Task) -> None:
        """Keeps a frozen copy of the model from before the task."""
        self._teacher, self._groups, self._problem = None, [], task.problem
        if task.index == 0:
            self.notes.append(self._first(task))
        if not self.config.strength or not self._has_teacher(task):
            return
        past = task.rows[:-1]
        if task.language:
            self._groups = [slice(None)]
        else:
            self._groups = _competing({row for rows in past for row in rows}, task.owners)
        if not task.language and not any(set(rows) & set(task.rows[-1]) for rows in past):
            shared = "class" if task.problem == SINGLE_LABEL else "output"
            self.notes.append(
                f"task {task.name!r} shares no {shared} with earlier tasks: their rows are learnt from the old model's "
                "answers alone, without examples"
            )
        teacher = copy.deepcopy(task.model).requires_grad_(False)
        teacher.zero_grad(set_to_none=True)
        self._teacher = teacher
        self.costs.extra_memory_bytes = sum(tensor.nbytes for tensor in teacher.state_dict().values())

    def _has_teacher(self, task: Task) -> bool:
        """A classifier's first task has no old rows to answer with; a language model's start model has them all."""
        return self.config.protects(task) and (task.index > 0 or task.language)

    def _first(self, task: Task) -> str:
        if task.language:
            return self.config.first_task_note(task)
        return f"task {task.name!r} is the first and was not distilled: the start model has no rows of earlier tasks"

    def loss(self, loss: Tensor, logits: Tensor, batch: Batch, model: nn.Module) -> Tensor:
        """Adds the distillation."""
        if self._teacher is None:
            return loss
        with torch.no_grad(), evaluation_mode(self._teacher):
            old = learnt_logits(logits_of(self._teacher, batch), batch)
        logits = learnt_logits(logits, batch)
        for rows in self._groups:
            kept = distillation(logits[:, rows], old[:, rows], self.config.temperature, self._problem)
            loss = loss + self.config.strength * kept
        return loss


def _competing(rows: set[int], owners: Tensor | None) -> list[list[int]]:
    """The rows in groups of one owner, each in order: rows that do not compete are distilled apart."""
    if owners is None:
        return [sorted(rows)]
    groups: dict[int, list[int]] = {}
    for row in sorted(rows):
        groups.setdefault(int(owners[row]), []).append(row)
    return list(groups.values())
