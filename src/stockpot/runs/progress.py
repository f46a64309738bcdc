"""Progress of a run: bars in a terminal, lines in a log, silence by default."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from stockpot.printing import escape_controls


class Progress:
    """Shows nothing; the base class of those that do."""

    def task(self, number: int, count: int, name: str) -> None:
        """Task `number` of `count` starts training."""

    def step(self, step: int, total: int) -> None:
        """An optimizer step was made."""

    def evaluated(self, scores: dict[str, float | None]) -> None:
        """A task was learnt and all tasks were evaluated: name of a task → primary score."""

    def cell(self, name: str, score: float | None) -> None:
        """A run of a comparison finished, with this average score."""

    def close(self) -> None:
        """Leaves the terminal tidy."""


class Bars(Progress):
    """A bar for every task; with `cells`, another for the runs of a comparison, `cells` in all."""

    def __init__(self, cells: int | None = None) -> None:
        self._task: Any = None
        self._cells = None if cells is None else _bar(total=cells, desc="cells", unit=" runs")

    def task(self, number: int, count: int, name: str) -> None:
        """Opens the task's bar."""
        self._close_task()
        alone = self._cells is None
        indent = "" if alone else "  "
        self._task = _bar(desc=f"{indent}task {number}/{count} {name}", unit=" steps", leave=alone)

    def step(self, step: int, total: int) -> None:
        """Advances the bar."""
        if self._task is not None:
            self._task.total = total
            self._task.update(step - self._task.n)

    def evaluated(self, scores: dict[str, float | None]) -> None:
        """Writes the scores beside the bar."""
        if self._task is not None:
            self._task.set_postfix_str(_listed(scores))
        self._close_task()

    def cell(self, name: str, score: float | None) -> None:
        """Advances the bar of the runs."""
        if self._cells is not None:
            self._cells.set_postfix_str(_scored(name, score))
            self._cells.update()

    def _close_task(self) -> None:
        if self._task is not None:
            self._task.close()
            self._task = None

    def close(self) -> None:
        """Closes the bars, finished or not."""
        self._close_task()
        if self._cells is not None:
            self._cells.close()


class Lines(Progress):
    """A line on stderr for every task, or with `cells` for every run of a comparison, `cells` in all: for logs."""

    def __init__(self, cells: int | None = None) -> None:
        self._count = cells
        self._done = 0
        self._head = ""

    def task(self, number: int, count: int, name: str) -> None:
        """Remembers the task for its line."""
        self._head = f"task {number}/{count} {name}"

    def evaluated(self, scores: dict[str, float | None]) -> None:
        """Writes the task's line."""
        if self._count is None:
            write_line(f"{self._head}: {_listed(scores)}")

    def cell(self, name: str, score: float | None) -> None:
        """Writes the run's line."""
        self._done += 1
        write_line(f"run {self._done}/{self._count} {_scored(name, score)}")


def terminal_progress(cells: int | None = None) -> Progress:
    """Bars where stderr is a terminal, else lines; `cells` is the number of runs of a comparison."""
    return Bars(cells) if sys.stderr.isatty() else Lines(cells)


def _bar(**settings: Any) -> Any:
    from tqdm import tqdm

    return tqdm(dynamic_ncols=True, **settings)


def write_line(line: str) -> None:
    """A line on stderr; where that fails, the run goes on without."""
    with suppress(OSError):
        sys.stderr.write(f"{escape_controls(line, lines=False)}\n")


def _listed(scores: dict[str, float | None]) -> str:
    return ", ".join(f"{task} {'not finite' if score is None else f'{score:.3f}'}" for task, score in scores.items())


def _scored(name: str, score: float | None) -> str:
    return name if score is None else f"{name}: {score:.3f}"
