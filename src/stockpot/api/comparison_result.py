"""What the calls return for a comparison: its folder, and the numbers in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.api import class_frames, frames, notebook
from stockpot.api.pages import written_page
from stockpot.api.run_result import RunResult
from stockpot.errors import StockpotError
from stockpot.evaluation.statistics import COST_NAMES, METRIC_NAMES
from stockpot.results import Comparison, MethodSummary, Results

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


@dataclass(frozen=True, repr=False)
class ComparisonResult:
    """The folder of a comparison at `path`, and its `results`, as in comparison.json, with those of its `runs`.

    In a notebook it shows itself as a table.
    """

    path: Path
    results: Comparison
    runs: dict[str, list[Results]]  # label → its runs, in the order of `results.methods[label].cells`
    doubts: Sequence[str] = ()  # what a reader must know of the files

    def run(self, method: str, seed: int | None = None, *, order: int = 0) -> RunResult:
        """The run of a method.

        Args:
            method: its label.
            seed: its seed; default: the first.
            order: index into `results.orders`, the orders of the tasks.

        Raises:
            StockpotError: there is no such run.
        """
        for cell, results in zip(self._summary(method).cells, self.runs[method], strict=True):
            if seed in (None, cell.seed) and order == cell.order:
                return RunResult(self.path / cell.run, results)
        raise StockpotError(f"{self.path}: {method!r} has no run with seed {seed} and order {order}.")

    def _summary(self, method: str) -> MethodSummary:
        return frames.named("method", method, self.results.methods, method)

    def matrix(self, method: str, score: str | None = None, *, order: int = 0, start: bool = False) -> pd.DataFrame:
        """The mean over a method's seeds of a score on every task (columns) after learning each task (rows).

        Args:
            method: its label.
            score: the name of a score; default: the primary one.
            order: index into `results.orders`, the orders of the tasks.
            start: with a first row `start`, before anything was learnt.

        Raises:
            StockpotError: there is no such method, score or order.
        """
        cells = self._summary(method).cells
        runs = [run for cell, run in zip(cells, self.runs[method], strict=True) if cell.order == order]
        if not runs:
            raise StockpotError(f"{self.path}: {method!r} has no run with order {order}.")
        return frames.mean_matrix(
            [(frames.named("score", score, run.scores, run.primary), run.tasks) for run in runs], start
        )

    @property
    def metrics(self) -> pd.DataFrame:
        """Methods (rows) by metrics, each with mean, low and high: 95 % Student t intervals over the runs."""
        return frames.estimates_frame(self.results.methods, METRIC_NAMES)

    @property
    def controls(self) -> pd.DataFrame:
        """(method, control) by the change since the start and its worst, each with mean, low and high."""
        return frames.control_estimates_frame(self.results.methods)

    @property
    def costs(self) -> pd.DataFrame:
        """Methods (rows) by costs of a stream in seconds and bytes, each with mean, low and high."""
        return frames.estimates_frame(self.results.methods, COST_NAMES)

    def lost_classes(self) -> pd.DataFrame:
        """What each class (rows: task, class) lost under each method (columns), the mean over its runs.

        Accuracy when its task had just been learnt, minus that at the end; `run(…).lost_classes()` has more of one run.
        """
        return class_frames.lost_by_method(self.runs)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the files and of the runs, each said once."""
        notes = [note for runs in self.runs.values() for run in runs for note in run.notes]
        return list(dict.fromkeys([*self.doubts, *notes]))

    def model(
        self,
        method: str,
        seed: int | None = None,
        *,
        order: int = 0,
        after: str | None = None,
        allow_code: bool = False,
    ) -> nn.Module:
        """The model of a method's run: `run(method, seed, order=order).model(after, allow_code=allow_code)`.

        Args:
            method: its label.
            seed: its seed; default: the first.
            order: index into `results.orders`, the orders of the tasks.
            after: the name of a task; default: the last.
            allow_code: whether the model may be built by code that the run folder names.

        Raises:
            StockpotError: there is no such run or task, or the model cannot be loaded.
        """
        return self.run(method, seed, order=order).model(after, allow_code=allow_code)

    def report(self, folder: str | os.PathLike[str] | None = None, *, again: bool = False, pdf: bool = False) -> Path:
        """The path of the comparison's page, written if it is missing or older than the comparison.

        Args:
            folder: where it is written; default: the folder of the numbers.
            again: write it in any case.
            pdf: write it in any case, and its figures as PDF too.

        Raises:
            StockpotError: it could not be written.
        """
        from stockpot.report.comparison_page import write_comparison_report

        def write(target: Path) -> None:
            write_comparison_report(self.results, self.runs, target, self.doubts, pdf=pdf)

        return written_page(self.path, folder, "comparison.json", write, again or pdf)

    def export(self, form: str) -> str:
        """The numbers for other programs and papers.

        Args:
            form: csv, one row for each method; json, as comparison.json; latex or md, the methods side by side.

        Raises:
            StockpotError: there is no such form.
        """
        from stockpot.report.export import export_comparison

        return export_comparison(self.results, form)

    def _repr_html_(self) -> str:
        return notebook.comparison_html(self.results, str(self.path))

    def __repr__(self) -> str:
        return f"<comparison {str(self.path)!r}: {', '.join(self.results.methods)}>"
