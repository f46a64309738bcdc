"""What the calls return for one run: its folder, and the numbers in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from stockpot.api import class_frames, frames, notebook
from stockpot.api.learnt_models import known_task, learnt_index, learnt_tasks
from stockpot.api.pages import written_page
from stockpot.errors import StockpotError
from stockpot.report.formatting import score as shown
from stockpot.results import Results, Scores

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from stockpot.api.pushing import Pushed, PushOptions


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

        return written_page(self.path, folder, "journal.jsonl", write, again or pdf)

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
