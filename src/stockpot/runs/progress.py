"""Progress of a run, told to whoever listens; silent by default."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Progress:
    """Says nothing; the base of those that do."""

    def task(self, number: int, count: int, name: str) -> None:
        """Task `number` of `count` begins to train."""

    def step(self, step: int, total: int) -> None:
        """An optimizer step was made."""

    def evaluated(self, scores: dict[str, float]) -> None:
        """A task was learnt and all tasks were evaluated: task name → score."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tidies up the terminal."""


class Bar(Progress):
    """A tqdm bar for every task, and a line of scores when it is learnt."""

    def __init__(self, prefix: str = "", keep: bool = True) -> None:
        self.prefix = prefix
        self.keep = keep
        self._bar: Any = None

    def task(self, number: int, count: int, name: str) -> None:
        """Opens the task's bar."""
        from tqdm import tqdm

        self._close()
        self._bar = tqdm(
            desc=f"{self.prefix}task {number}/{count} {name}", unit=" steps", leave=self.keep, dynamic_ncols=True
        )

    def step(self, step: int, total: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(step - self._bar.n)

    def evaluated(self, scores: dict[str, float]) -> None:
        """Writes the scores beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(f"{task} {score:.3f}" for task, score in scores.items()))
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes an open bar."""
        self._close()


class Cells(Bar):
    """Progress of a comparison: one bar for the cells, and one for the task that is being learnt."""

    def __init__(self, total: int) -> None:
        super().__init__(prefix="  ", keep=False)
        from tqdm import tqdm

        self._cells = tqdm(total=total, desc="cells", unit=" runs", dynamic_ncols=True)

    def cell(self, name: str, score: float | None) -> None:
        """A cell is finished."""
        self._cells.set_postfix_str(f"{name}: {score:.3f}" if score is not None else name)
        self._cells.update()

    def close(self) -> None:
        """Leaves the cells' bar standing, finished or not."""
        self._close()
        self._cells.close()
