"""The three scenarios of continual learning: which output row stands for which class, and which rows compete.

| scenario | a row stands for | competing rows, training | competing rows, evaluating task j after task i |
|---|---|---|---|
| class-incremental | a class of the stream | all that the head has (*) | classes of tasks 1 … max(i, j) |
| domain-incremental | a position in the task's class list | all | all |
| task-incremental | a class of one task | the task's own | the task's own |
| language | a token | all | all |

Where an example has several labels, or numbers, a row answers by itself and no rows compete: a row has a loss where
the example's task has its label, and is evaluated there.

(*) With `head: masked` only those of the classes seen so far, as in Hsu et al., "Re-evaluating continual learning
scenarios" (arXiv 1810.12488). The names are those of van de Ven & Tolias, "Three scenarios for continual learning"
(arXiv 1904.07734).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stockpot.errors import StockpotError
from stockpot.plugins import is_dotted_path, load_dotted_path, load_registered, registered

SCENARIO_GROUP = "stockpot.scenarios"  # of entry points: packages register scenarios in it


@dataclass(frozen=True)
class Rows:
    """The output rows of a stream, in the order in which its tasks introduce them; the base class of scenarios.

    A scenario says in `row_keys` which classes share a row, in `answerable` which rows may be answered, and in `groups`
    which compete in training. Here a row is a class of the stream, and all rows always compete.
    """

    scenario: str
    tasks: tuple[tuple[int, ...], ...]  # for each task: the row of each of its classes
    names: tuple[str, ...]  # for each row: the class that it stands for
    compete: bool = True  # whether an example has one class, so that rows compete; not with several labels or numbers

    @staticmethod
    def of(scenario: str, tasks: Sequence[tuple[str, Sequence[str]]]) -> Rows:
        """The rows for these tasks, each a name and its classes; a longer stream adds rows, and changes none."""
        kind = rows_type(scenario)
        names: list[str] = []
        rows: list[tuple[int, ...]] = []
        for task, classes in tasks:
            keys = kind.row_keys(task, classes)
            names.extend(key for key in dict.fromkeys(keys) if key not in names)
            rows.append(tuple(names.index(key) for key in keys))
        return kind(scenario, tuple(rows), tuple(names))

    @staticmethod
    def row_keys(task: str, classes: Sequence[str]) -> list[str]:
        """What names the row of each class of a task: classes with the same key, of any task, share a row."""
        return list(classes)

    def answerable(self, task: int, learnt: int) -> Collection[int] | None:
        """The rows that may be answered to examples of `task` (from 0) after `learnt` tasks; None: all of them."""
        return None

    def groups(self) -> Sequence[Collection[int]] | None:
        """Sets of rows that compete among themselves in training, each row in one of them; None: all rows compete."""
        return None

    def count(self, tasks: int) -> int:
        """The number of rows that the first `tasks` tasks need."""
        return max((max(rows, default=-1) for rows in self.tasks[:tasks]), default=-1) + 1

    def evaluated(self, task: int, learnt: int, head: int) -> Tensor:
        """Which of `head` rows may be predicted on `task` (from 0) after `learnt` tasks: a (head,) mask."""
        rows = self.answerable(task, learnt)
        mask = torch.full((head,), rows is None)
        mask[[row for row in rows or () if row < head]] = True
        return mask

    def owners(self, head: int, seen_tasks: int | None = None) -> Tensor | None:
        """Which of `head` rows compete in training: those of one owner, numbered from 0; None where all do.

        The owners are the `groups`, such as the tasks in task-incremental training. With `seen_tasks`, the rows of that
        many tasks share one owner, and rows of classes to come have −1.
        """
        if not self.compete:
            return None
        owners = torch.full((head,), -1)
        if seen_tasks is not None:
            owners[: self.count(seen_tasks)] = 0
            return owners
        groups = self.groups()
        for owner, rows in enumerate(groups or ()):
            owners[[row for row in rows if row < head]] = owner
        return None if groups is None else owners


class ClassIncremental(Rows):
    """A row is a class; those of the tasks learnt, and of the task that is evaluated, may be answered."""

    def answerable(self, task: int, learnt: int) -> Collection[int]:
        """The rows of tasks 1 … max(i, j)."""
        return {row for other in self.tasks[: max(learnt, task + 1)] for row in other}


class DomainIncremental(Rows):
    """A row is a position in the list of a task's classes: all tasks share them."""

    @staticmethod
    def row_keys(task: str, classes: Sequence[str]) -> list[str]:
        """The positions."""
        return [str(position) for position in range(len(classes))]


class TaskIncremental(Rows):
    """A row is a class of one task, and competes with that task's rows alone."""

    @staticmethod
    def row_keys(task: str, classes: Sequence[str]) -> list[str]:
        """Task and class."""
        return [f"{task}/{name}" for name in classes]

    def answerable(self, task: int, learnt: int) -> Collection[int]:
        """The task's own."""
        return self.tasks[task]

    def groups(self) -> Sequence[Collection[int]]:
        """One for each task."""
        return self.tasks


SCENARIOS: dict[str, type[Rows]] = {
    "class-incremental": ClassIncremental,
    "domain-incremental": DomainIncremental,
    "task-incremental": TaskIncremental,
    "language": Rows,  # its tasks have no classes
}


def rows_type(scenario: str, where: str = "scenario") -> type[Rows]:
    """The class of a scenario in a recipe: one of SCENARIOS, at a dotted path, or of an installed package.

    Raises StockpotError where it cannot be imported, or is not a scenario.
    """
    if scenario in SCENARIOS:
        return SCENARIOS[scenario]
    is_path = is_dotted_path(scenario)
    thing = load_dotted_path(scenario, where) if is_path else load_registered(SCENARIO_GROUP, scenario, where)
    if not (isinstance(thing, type) and issubclass(thing, Rows)):
        raise StockpotError(f"{scenario}: this is not a scenario: define a class derived from {__name__}.Rows.")
    return thing


def open_scenario(value: Any, handler: Any, info: Any) -> Any:
    """Checks a recipe's scenario; with `context={"reading": True}` any name is taken, and nothing imported."""
    brought = isinstance(value, str) and (is_dotted_path(value) or value in registered(SCENARIO_GROUP))
    if isinstance(value, str) and value not in SCENARIOS and (info.context or {}).get("reading"):
        return value
    if brought and value not in SCENARIOS:
        rows_type(value, "")
        return value
    return handler(value)


def mask_rivals(logits: Tensor, labels: Tensor, owners: Tensor | None) -> Tensor:
    """Logits (B, rows) with −∞ at the rows that do not compete with the label's: see `Rows.owners`."""
    if owners is None:
        return logits
    owners = owners.to(logits.device)
    return logits.masked_fill(owners[None, :] != owners[labels][:, None], float("-inf"))
