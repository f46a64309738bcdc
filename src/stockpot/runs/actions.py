"""What can be done with a run folder: create one, continue one, add a task to one, branch one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stockpot import files
from stockpot.errors import StockpotError
from stockpot.methods.base import BaseConfig
from stockpot.recipe.recognised import Recognition
from stockpot.recipe.resolve import resolve, resolve_task
from stockpot.recipe.schema import Recipe
from stockpot.results import Results
from stockpot.runs.brought_code import brought_code, open_code, recorded_rows
from stockpot.runs.evaluating import evaluate_late
from stockpot.runs.events import Added, RunFacts
from stockpot.runs.folder import RunFolder
from stockpot.runs.loop import learn_stream
from stockpot.runs.model_checks import check_model
from stockpot.runs.progress import Progress
from stockpot.runs.results_json import write_results
from stockpot.runs.session import Session
from stockpot.runs.start_checks import check_start, start_rows
from stockpot.runs.trackers import forget_trackers
from stockpot.runs.versions import commit, versions
from stockpot.runs.weighing import check_weights
from stockpot.spelling import option
from stockpot.streams.spec import TaskSpec
from stockpot.streams.stream import Stream
from stockpot.training.job import Stop, training_arguments


def create_run(recipe: Recipe, method: BaseConfig, seed: int, path: Path, opened: Stream | None = None) -> Stream:
    """Creates a run folder for one method and one seed; returns the opened stream, which `continue_run` can use.

    Every mistake that can be known beforehand is raised here, before there is a folder. A stream that is passed in as
    `opened` must have come from `check_start`.
    """
    RunFolder.check_free(path)
    resolved = resolve(recipe, method, seed)
    stream = opened or check_start(resolved)
    facts: RunFacts = {
        "start_rows": start_rows(resolved, stream),
        "data": stream.facts(),
        "versions": versions(),
        "commit": commit(),
    }
    if brought := brought_code(resolved, stream.rows):
        facts["brought"] = brought
    run = RunFolder.create(path, resolved, method.title, facts)
    run.journal.close()
    return stream


@contextmanager
def _locked(path: Path) -> Iterator[RunFolder]:
    run = RunFolder.open(path)
    run.lock()
    try:
        with files.explaining_disk_errors(path):
            yield run
    finally:
        run.journal.close()


def continue_run(
    path: Path,
    *,
    allow_code: bool = False,
    stop: Stop | None = None,
    progress: Progress | None = None,
    opened: Stream | None = None,
) -> Results:
    """Learns the tasks that a run has not learnt yet, from wherever it stopped; returns its results.

    Args:
        path: the run folder, as `create_run` made it.
        allow_code: whether the model may be built by code that the run folder names.
        stop: requests a stop after the current optimizer step.
        progress: is called as the run proceeds; silent by default.
        opened: the stream that `create_run` returned, to save opening it again.

    Raises:
        Interrupted: when `stop` was requested; everything so far is on disk then.
        StockpotError: where the folder is not a run, was edited or damaged, or another process works in it.
    """
    with _locked(path) as run:
        if not run.is_finished:
            session = Session.open(run, allow_code=allow_code, stop=stop, progress=progress, opened=opened)
            learn_stream(session)
        return write_results(run)


def add_task(path: Path, task: TaskSpec, *, allow_code: bool = False) -> list[str]:
    """Appends a task to a finished run, and evaluates the models so far on it; `continue_run` then learns it.

    Returns what was guessed of its data, a line each.

    Raises StockpotError where the run is not finished, or the task does not fit into its stream.
    """
    with _locked(path) as run:
        if not run.is_finished:
            raise StockpotError(f"{path}: the run is not finished; first continue it with `stockpot resume {path}`.")
        open_code(run, allow_code)
        recipe = run.recipe
        taken = [other.name for other in (*run.tasks, *recipe.controls)]
        if task.name in taken:
            raise StockpotError(f"task {task.name!r}: the stream already has a task of this name; choose another.")
        recognition = Recognition(f"task {task.name!r}")
        task = recognition.of_task(task, recipe.data, recipe.scenario)
        resolved = resolve_task(task, recipe.data, recipe.mix)
        if recipe.has_classes and resolved.data.problem != recipe.problem:
            raise StockpotError(
                f"task {task.name!r}: data.problem_type: {resolved.data.problem}, but the run's is {recipe.problem}: "
                "its outputs stand for nothing else; start a new run."
            )
        training_arguments({**recipe.train, **resolved.train}, path, run.seed)
        longer = recipe.model_copy(update={"tasks": [*run.tasks, resolved]})
        session = Session.open(run, longer, allow_code=allow_code)
        check_weights({**recipe.train, **resolved.train}, session.stream)
        newest = len(run.finished) - 1
        if recipe.model.lora is not None and session.rows(newest + 1) > session.rows(newest):
            raise StockpotError(
                f"task {task.name!r}: it brings new classes, and under model.lora the head cannot grow: start a new "
                "run that names all tasks."
            )
        run.verify_model(newest)
        model = session.load(newest)
        check_model(model, session.stream, session.rows(newest), first=len(run.tasks))
        event: Added = {
            "event": "added",
            "task": resolved.model_dump(mode="json", exclude_none=True),
            "data": {task.name: session.stream.facts()[task.name]},
            **evaluate_late(session, len(run.tasks)),
        }
        if shared := recorded_rows(session.stream.rows):
            event["rows"] = shared
        run.journal.append(event)
        run.write_recipe()
        return recognition.guesses


def branch(path: Path, target: Path) -> None:
    """Copies a finished run to a new folder, to continue it there with other tasks."""
    run = RunFolder.open(path)
    files.refuse_links(path)
    run.journal.lock(shared=True)
    try:
        if not run.is_finished:
            raise StockpotError(f"{path}: the run is not finished; first continue it with `stockpot resume {path}`.")
        if target.exists():
            raise StockpotError(
                f"{target}: already exists; choose another folder with {option('output')}, or add to this "
                "run without it."
            )
        with files.publishing(target, replace=False) as folder:
            ignore = shutil.ignore_patterns(f"{files.TEMPORARY}*")
            shutil.copytree(path, folder, ignore=ignore, dirs_exist_ok=True)
            forget_trackers(folder)
    finally:
        run.journal.close()
