"""What the calls return: a run, a comparison or a what-if, each a folder and the numbers in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from stockpot.api import class_frames, frames, notebook
from stockpot.api.learnt_models import known_task, learnt_index, learnt_tasks
from stockpot.errors import StockpotError
from stockpot.evaluation.statistics import COST_NAMES, METRIC_NAMES
from stockpot.files import explaining_disk_errors
from stockpot.report.formatting import score as shown
from stockpot.results import Comparison, MethodSummary, Results, Scores, WhatIf

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from stockpot.api.pushing import Pushed, PushOptions

PAGE = "report.html"


@dataclass(frozen=True, repr=False)
class RunResult:
    """A run folder at `path`, and its `results`, as in results.json. In a notebook it shows itself as a table."""

    path: Path
    results: Results
    doubts: Sequence[str] = ()  # what a reader must know of the files

    def matrix(self, score: str | None = None, *, start: bool = False) -> pd.DataFrame:
        """A score on every task (columns) after learning each task (rows); NaN where it was not measured.

        Args:
            score: the name of a score; default: the primary one.
            start: with a first row `start`, before anything was learnt.

        Raises:
            StockpotError: the run has no score of this name.
        """
        scores = self._scores(score)
        return frames.matrix_frame(scores, self.results.tasks[: len(scores.matrix)], start)

    def control_scores(self, score: str | None = None) -> pd.DataFrame:
        """A score on every control (columns) before the first task (`start`) and after each (rows).

        Args:
            score: the name of a score; default: the primary one.

        Raises:
            StockpotError: the run has no score of this name.
        """
        scores = self._scores(score)
        return frames.controls_frame(scores, self.results.tasks[: len(scores.matrix)])

    def per_class(self, *, start: bool = False) -> pd.DataFrame:
        """Accuracy on each class (rows: task or control, class) after learning each task (columns).

        NaN where it was not counted, and where a class has no test examples.

        Args:
            start: with a first column `start`, before anything was learnt.

        Raises:
            StockpotError: the run did not count answers by class.
        """
        return class_frames.class_matrix(self._counted(), start)

    def lost_classes(self) -> pd.DataFrame:
        """Which classes were lost: a row for each (task, class), those that lost most first.

        Columns: `examples` in the test part; accuracy when the task had just been `learnt`, and at the `end`; `lost`,
        their difference; `precision` and `f1` at the end, over all tasks learnt where their classes compete; the most
        frequent `wrong` answer, and the share of the examples that was given it (`wrong_share`).

        Raises:
            StockpotError: the run did not count answers by class.
        """
        return class_frames.lost_frame(self._counted())

    def confusion(
        self, by: Literal["task", "class"] = "task", *, after: str | None = None, counts: bool = False
    ) -> pd.DataFrame:
        """What was taken for what: of the test examples of each row, the share that was given each answer (columns).

        Args:
            by: rows and columns are tasks, an answer counting for the task whose class it is; or classes.
            after: the name of a task, read from the folder; default: the last task learnt.
            counts: by class: how many examples, in place of the share.

        Raises:
            StockpotError: the run did not count answers by class, there is no such task or it is not learnt yet, or
                classes of different tasks do not compete.
        """
        results = self._counted(after)
        if by == "class":
            return class_frames.confused_classes(results, counts)
        if by != "task" or counts:
            raise StockpotError("confusion: by is 'task' or 'class', and counts are by='class'.")
        return class_frames.confused_tasks(results)

    def _counted(self, after: str | None = None) -> Results:
        """The results, as they were after a task. Raises StockpotError where answers were not counted by class."""
        results = self.results
        if not results.classes:
            raise StockpotError(
                f"{self.path}: this run did not count answers by class: its examples do not have one class each, no "
                "score of a classifier was measured, or an older version of Stockpot made it."
            )
        if after is None:
            return results
        from stockpot.runs.class_answers import classes_after
        from stockpot.runs.folder import RunFolder

        run = RunFolder.open(self.path)
        count = learnt_tasks(run).index(known_task(run, after)) + 1
        tasks = results.tasks[:count]
        return results.model_copy(update={"tasks": tasks, "classes": classes_after(run, count)})

    def _scores(self, name: str | None) -> Scores:
        return frames.named("score", name, self.results.scores, self.results.primary)

    @property
    def metrics(self) -> pd.Series:
        """The metrics of the primary score, by name: average_accuracy, forgetting, …"""
        return frames.metrics_series(self.results.metrics)

    @property
    def controls(self) -> pd.DataFrame:
        """How the primary score on each control changed since the start (`change`), and at its worst (`worst`)."""
        return frames.changes_frame(self.results)

    @property
    def costs(self) -> pd.DataFrame:
        """What each task cost, and the whole stream in the row `total`: seconds and bytes."""
        return frames.costs_frame(self.results)

    @property
    def notes(self) -> list[str]:
        """What a reader must know, such as averages that were skipped."""
        return [*self.results.notes, *self.doubts]

    @property
    def page_entry(self) -> tuple[str, Results]:
        """The folder's name, and the results with all notes, as the page shows them."""
        return self.path.resolve().name, self.results.model_copy(update={"notes": self.notes})

    def model_folder(self, after: str | None = None) -> Path:
        """The folder of the model after a task, which `from_pretrained` loads.

        Args:
            after: the name of a task, or `start` for the model before the first one; default: the newest task learnt.

        Raises:
            StockpotError: there is no such task, it is not learnt yet, or its model was not kept.
        """
        from stockpot.runs.folder import RunFolder

        run = RunFolder.open(self.path)
        return run.model(learnt_index(run, after))

    def model(self, after: str | None = None, *, allow_code: bool = False) -> nn.Module:
        """The model after a task, checked against the run's journal, on the processor and in evaluation mode.

        The folder is read as it is now: after `stockpot.add` the newest model is that of the added task.

        Args:
            after: the name of a task, or `start` for the model before the first one; default: the newest task learnt.
            allow_code: whether the model may be built by code that the run folder names.

        Raises:
            StockpotError: there is no such task, it is not learnt yet, its model was not kept or has changed, or it
                needs code that is not allowed.
        """
        from stockpot.runs.folder import RunFolder
        from stockpot.runs.session import check_code, load_learnt

        run = RunFolder.open(self.path)
        index = learnt_index(run, after)
        check_code(run, run.recipe.model, allow_code)
        run.verify_model(index)
        return load_learnt(run, index, allow_code).eval()

    def report(self, folder: str | os.PathLike[str] | None = None, *, again: bool = False, pdf: bool = False) -> Path:
        """The path of the run's page, written if it is missing or older than the run; it shows the folder as it is now.

        Args:
            folder: where it is written; default: the folder of the numbers.
            again: write it in any case.
            pdf: write it in any case, and its figures as PDF too.

        Raises:
            StockpotError: it could not be written.
        """
        from stockpot.report.run_page import write_run_report

        def write(target: Path) -> None:
            write_run_report([self._as_it_is().page_entry], target, pdf=pdf)

        return _page(self.path, folder, "journal.jsonl", write, again or pdf)

    def _as_it_is(self) -> RunResult:
        """The run with the tasks that were learnt since these numbers were read."""
        from stockpot.runs.folder import RunFolder
        from stockpot.runs.results_json import results_of

        run = RunFolder.open(self.path)
        return self if len(run.finished) == len(self.results.tasks) else replace(self, results=results_of(run))

    def push(self, repo_id: str, **options: Unpack[PushOptions]) -> Pushed:
        """Uploads a model of the run to the Hugging Face Hub: `stockpot.push(run, repo_id, **options)`.

        Args:
            repo_id: NAME or OWNER/NAME; without an owner it is yours.
            **options: those of `stockpot.push`: after, private, revision, dry_run, …

        Returns:
            What went up, or would have.

        Raises:
            StockpotError: something may not go up, nobody is logged in, or the hub refuses.
        """
        from stockpot.api.pushing import push

        return push(self.path, repo_id, **options)

    def export(self, form: str) -> str:
        """The numbers for other programs and papers.

        Args:
            form: csv, one row for each task after each task; json, as results.json; latex or md, each score's matrix.

        Raises:
            StockpotError: there is no such form.
        """
        from stockpot.report.export import export_runs

        return export_runs([(self.path.resolve().name, self.results)], form)

    def _repr_html_(self) -> str:
        return notebook.run_html(self.results, str(self.path))

    def __repr__(self) -> str:
        results = self.results
        average = shown(results.metrics.average_accuracy, results.scores[results.primary].unit)
        learnt = f"{results.label}, {len(results.tasks)} tasks"
        return f"<run {str(self.path)!r}: {learnt}, average {results.primary} {average}>"


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

        return _page(self.path, folder, "comparison.json", write, again or pdf)

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


@dataclass(frozen=True, repr=False)
class WhatIfResult:
    """The folder of a sweep over a run's checkpoints at `path`, and its `results`, as in whatif.json.

    It has no costs and no models: nothing was trained, and merged models are not kept.
    """

    path: Path
    results: WhatIf

    def matrix(self, method: str, value: float | None = None, *, start: bool = False) -> pd.DataFrame:
        """The primary score on every task (columns) after merging each task (rows).

        Args:
            method: its name.
            value: its strength, one of those in `metrics`; default: the best.
            start: with a first row `start`, before anything was learnt.

        Raises:
            StockpotError: there is no such method or value.
        """
        points = frames.named("method", method, self.results.methods, method)
        point = points.points[points.best]
        if value is not None:
            known = {point.value: point for point in points.points}
            if value not in known:
                tried = ", ".join(str(other) for other in known)
                raise StockpotError(f"{method} was not tried at {value:g}. Known: {tried}.")
            point = known[value]
        return frames.matrix_frame(point.scores, self.results.tasks, start)

    @property
    def metrics(self) -> pd.DataFrame:
        """(method, value) by metric, with `exact`: whether a real run gives the scores after the last task."""
        return frames.sweeps_frame(self.results.methods)

    @property
    def notes(self) -> list[str]:
        """What a reader must know: what is exact, and on which data values were chosen."""
        return list(self.results.notes)

    def report(self, folder: str | os.PathLike[str] | None = None, *, again: bool = False) -> Path:
        """The path of the page, written if it is missing or older than the sweep.

        Args:
            folder: where it is written; default: the folder of the numbers.
            again: write it in any case.

        Raises:
            StockpotError: it could not be written.
        """
        from stockpot.report.whatif_page import write_whatif_report

        def write(target: Path) -> None:
            write_whatif_report(self.results, target)

        return _page(self.path, folder, "whatif.json", write, again)

    def _repr_html_(self) -> str:
        return notebook.whatif_html(self.results, str(self.path))

    def __repr__(self) -> str:
        return f"<what if {self.results.run!r}: {', '.join(self.results.methods)}>"


def _page(
    path: Path, folder: str | os.PathLike[str] | None, numbers: str, write: Callable[[Path], object], again: bool
) -> Path:
    """The page in `folder`, by default `path`; written with `again`, or if it is missing or older than the numbers."""
    target = path if folder is None else Path(folder)
    page, shown = target / PAGE, path / numbers
    if again or not page.is_file() or page.stat().st_mtime_ns < shown.stat().st_mtime_ns:
        with explaining_disk_errors(target):
            write(target)
    return page
