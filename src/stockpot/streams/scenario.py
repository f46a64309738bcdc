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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stockpot.streams.spec import Scenario


@dataclass(frozen=True)
class Rows:
    """The output rows of a stream, in the order in which its tasks introduce them."""

    scenario: Scenario
    tasks: tuple[tuple[int, ...], ...]  # for each task: the row of each of its classes
    names: tuple[str, ...]  # for each row: the class that it stands for
    compete: bool = True  # whether an example has one class, so that rows compete; not with several labels or numbers

    @classmethod
    def of(cls, scenario: Scenario, tasks: Sequence[tuple[str, Sequence[str]]]) -> Rows:
        """The rows for these tasks, each a name and its classes; a longer stream adds rows, and changes none."""
        names: list[str] = []
        rows: list[tuple[int, ...]] = []
        for task, classes in tasks:
            if scenario in ("class-incremental", "language"):  # tasks of language have no classes
                keys = list(classes)
            elif scenario == "domain-incremental":
                keys = [str(position) for position in range(len(classes))]
            else:
                keys = [f"{task}/{name}" for name in classes]
            names.extend(key for key in keys if key not in names)
            rows.append(tuple(names.index(key) for key in keys))
        return cls(scenario, tuple(rows), tuple(names))

    def count(self, tasks: int) -> int:
        """The number of rows that the first `tasks` tasks need."""
        return max((max(rows, default=-1) for rows in self.tasks[:tasks]), default=-1) + 1

    def evaluated(self, task: int, learnt: int, head: int) -> Tensor:
        """Which of `head` rows may be predicted on `task` (from 0) after `learnt` tasks: a (head,) mask."""
        mask = torch.zeros(head, dtype=torch.bool)
        if self.scenario in ("domain-incremental", "language"):
            return ~mask
        if self.scenario == "task-incremental":
            rows: set[int] = set(self.tasks[task])
        else:
            rows = {row for other in self.tasks[: max(learnt, task + 1)] for row in other}
        mask[[row for row in rows if row < head]] = True
        return mask

    def owners(self, head: int, seen_tasks: int | None = None) -> Tensor | None:
        """Which of `head` rows compete in training: those of one owner, numbered from 0; None where all do.

        In task-incremental training the owner is the row's task. With `seen_tasks`, the rows of that many tasks
        share one owner, and rows of classes to come have −1.
        """
        if not self.compete:
            return None
        owners = torch.full((head,), -1)
        if seen_tasks is not None:
            owners[: self.count(seen_tasks)] = 0
            return owners
        if self.scenario != "task-incremental":
            return None
        for task, rows in enumerate(self.tasks):
            owners[[row for row in rows if row < head]] = task
        return owners


def mask_rivals(logits: Tensor, labels: Tensor, owners: Tensor | None) -> Tensor:
    """Logits (B, rows) with −∞ at the rows that do not compete with the label's: see `Rows.owners`."""
    if owners is None:
        return logits
    owners = owners.to(logits.device)
    return logits.masked_fill(owners[None, :] != owners[labels][:, None], float("-inf"))
