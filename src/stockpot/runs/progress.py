"""Progress of a run, told to whoever listens: bars in a terminal, lines in a log, silence by default."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from stockpot.printing import escape_controls


class Progress:
    """Says nothing; the base of those that do."""

    def task(self, number: int, count: int, name: str) -> None:
        """Task `number` of `count` begins to train."""

    def step(self, step: int, total: int) -> None:
        """An optimizer step was made."""

    def evaluated(self, scores: dict[str, float]) -> None:
        """A task was learnt and all tasks were evaluated: task name → score."""

    def cell(self, name: str, score: float | None) -> None:
        """A run of a comparison is finished, with this average score."""

    def close(self) -> None:
        """Tidies up the terminal."""


class Bars(Progress):
    """A bar for every task; with `cells`, one more for the runs of a comparison."""

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
        """Moves the bar."""
        if self._task is not None:
            self._task.total = total
            self._task.update(step - self._task.n)

    def evaluated(self, scores: dict[str, float]) -> None:
        """Writes the scores beside the bar."""
        if self._task is not None:
            self._task.set_postfix_str(_listed(scores))
        self._close_task()

    def cell(self, name: str, score: float | None) -> None:
        """Moves the bar of the runs."""
        if self._cells is not None:
            self._cells.set_postfix_str(_scored(name, score))
            self._cells.update()

    def _close_task(self) -> None:
        if self._task is not None:
            self._task.close()
            self._task = None

    def close(self) -> None:
        """Leaves the bars standing, finished or not."""
        self._close_task()
        if self._cells is not None:
            self._cells.close()


class Lines(Progress):
    """A line on stderr for every task, or with `cells` for every run of a comparison: for logs."""

    def __init__(self, cells: int | None = None) -> None:
        self._count = cells
        self._done = 0
        self._head = ""

    def task(self, number: int, count: int, name: str) -> None:
        """Remembers what the scores will be of."""
        self._head = f"task {number}/{count} {name}"

    def evaluated(self, scores: dict[str, float]) -> None:
        """Writes the task's line."""
        if self._count is None:
            _write(f"{self._head}: {_listed(scores)}")

    def cell(self, name: str, score: float | None) -> None:
        """Writes the run's line."""
        self._done += 1
        _write(f"run {self._done}/{self._count} {_scored(name, score)}")


def terminal_progress(cells: int | None = None) -> Progress:
    """Bars where stderr is a terminal, else lines."""
    return Bars(cells) if sys.stderr.isatty() else Lines(cells)


def _bar(**settings: Any) -> Any:
    from tqdm import tqdm

    return tqdm(dynamic_ncols=True, **settings)


def _write(line: str) -> None:
    """On stderr; nobody's loss where that cannot be written: the run goes on."""
    with suppress(OSError):
        sys.stderr.write(f"{escape_controls(line, lines=False)}\n")


def _listed(scores: dict[str, float]) -> str:
    return ", ".join(f"{task} {score:.3f}" for task, score in scores.items())


def _scored(name: str, score: float | None) -> str:
    return name if score is None else f"{name}: {score:.3f}"
