"""Checks a recipe as a run would: reads the data, builds the model, counts and shows; nothing is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stockpot.checking.counts import task_check
from stockpot.checking.memory import memory_check
from stockpot.checking.outcome import Problem
from stockpot.checking.planned_data import PlannedData
from stockpot.checking.result import CheckResult
from stockpot.checking.shown import LabelWords, contact_sheet
from stockpot.checking.timing import seconds_of_tasks
from stockpot.checking.warnings_about import data_warnings, memory_warning
from stockpot.errors import StockpotError
from stockpot.methods.base import BaseConfig
from stockpot.recipe.recognised import Recognition
from stockpot.recipe.resolve import listed_tasks, resolve
from stockpot.recipe.schema import Recipe, Split
from stockpot.runs.folder import RunFolder
from stockpot.runs.start_checks import RunStart, check_measures, open_start, task_settings
from stockpot.streams.classes import ClassifiedTask
from stockpot.streams.spec import DataSpec, TaskSpec
from stockpot.streams.text.language import LanguageSources
from stockpot.training.job import training_arguments

_MOST_PICTURES = 32  # in a contact sheet, unless more are shown


@dataclass
class _Problems:
    """Collects mistakes, each once."""

    problems: list[Problem] = field(default_factory=list)

    def __enter__(self) -> None:
        """What the block raises of mistakes is noted, and what follows the block goes on."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, StockpotError):
            return False
        self.note(str(error))
        return True

    def note(self, message: str) -> None:
        """Notes an error, once."""
        problem = Problem("error", message)
        if problem not in self.problems:
            self.problems.append(problem)


def check_recipe(
    recipe: Recipe,
    source: str,
    mistakes: Sequence[StockpotError] = (),
    *,
    shown: int = 3,
    timed: bool = False,
    pictures: Path | None = None,
    output: Path | None = None,
) -> CheckResult:
    """Everything that a run would do before its first step, and what it would then do.

    Args:
        recipe: the recipe; after `mistakes`, what of it could be read.
        source: where it comes from, for messages.
        mistakes: of the recipe itself; then only its data are read.
        shown: training examples of each task to show.
        timed: run a few batches forward and backward, to estimate time.
        pictures: write contact sheets of images after the processor into this folder.
        output: the run folder that a run would use.
    """
    collected = _Problems([Problem("error", str(mistake)) for mistake in mistakes])
    recognition = Recognition(source)
    broken = {str(part) for mistake in mistakes for part in getattr(mistake, "place", ())[:1]}
    if not broken & {"data", "tasks", "controls", "scenario", "mix"}:
        recipe = _with_data(recipe, recognition, collected)
    result = CheckResult(source, collected.problems, recognition.guesses, recipe.scenario, recipe.method.title)
    methods = _methods(recipe)
    if not mistakes and output is not None:
        with collected:
            RunFolder.check_free(output)
    resolved = None if collected.problems else _resolved(recipe, methods, collected)
    if resolved is None or collected.problems:
        return result
    start: RunStart | None = None
    with collected:
        start = open_start(resolved, methods)
    if start is None:
        _each_method(resolved, methods, collected)
        return result
    return _counted(result, resolved, start, shown=shown, timed=timed, pictures=pictures)


def _methods(recipe: Recipe) -> list[BaseConfig]:
    """The recipe's method, and those of its comparison."""
    known = {recipe.method.title: recipe.method}
    for method in recipe.compare:
        known.setdefault(method.title, method)
    return list(known.values())


def _with_data(recipe: Recipe, recognition: Recognition, collected: _Problems) -> Recipe:
    """The recipe with what its data say; every task and control whose data are wrong is noted."""
    if isinstance(recipe.tasks, Split):
        with collected:
            recipe = recognition.of_recipe(recipe)
            _open_data(recipe, listed_tasks(recipe), recipe.controls)
        return recipe
    try:
        recipe = recognition.of_recipe(recipe)
    except StockpotError as error:
        before = len(collected.problems)
        for task in (*recipe.tasks, *recipe.controls):
            with collected:
                alone = recipe.model_copy(update={"tasks": [task], "controls": []})
                each = Recognition().of_recipe(alone)
                _open_data(each, listed_tasks(each), [])
        if len(collected.problems) == before:
            collected.note(str(error))
        return recipe
    for task in recipe.tasks if isinstance(recipe.tasks, list) else ():
        with collected:
            _open_data(recipe, [task], [])
    for control in recipe.controls:
        with collected:
            _open_data(recipe, [], [control])
    return recipe


def _open_data(recipe: Recipe, tasks: Sequence[TaskSpec], controls: Sequence[TaskSpec]) -> None:
    """Reads the data of tasks and controls, as a stream does. Raises StockpotError for the first mistake."""
    tuning, most = recipe.evaluation.on == "tuning", recipe.evaluation.limit
    mixed = [task if task.mix is not None else task.model_copy(update={"mix": recipe.mix}) for task in tasks]
    if recipe.kind == "language":
        LanguageSources.open(recipe.data, mixed, controls, tuning, most)
        return
    for task in (*mixed, *controls):
        ClassifiedTask.open(recipe.data, task, tuning, most)
        if task.mix is not None and task.mix.fraction:
            general = TaskSpec.model_construct(name=f"{task.name}: mix", data=DataSpec(), mix=None)
            ClassifiedTask.open(task.mix, general)


def _resolved(recipe: Recipe, methods: Sequence[BaseConfig], collected: _Problems) -> Recipe | None:
    """The recipe of a run; what every method refuses about it, and every mistake in the settings, is noted."""
    resolved: Recipe | None = None
    for method in methods:
        with collected:
            each = resolve(recipe, method, recipe.seeds[0])
            resolved = each if method is recipe.method else resolved
            with collected:
                check_measures(each)
            for task in each.tasks if isinstance(each.tasks, list) else ():
                with collected:
                    training_arguments(task_settings(each, method, task), Path("runs"), recipe.seeds[0])
    return resolved


def _each_method(resolved: Recipe, methods: Sequence[BaseConfig], collected: _Problems) -> None:
    """Notes which other methods cannot start."""
    for method in methods if len(methods) > 1 else ():
        with collected:
            open_start(resolved, [method])


def _counted(
    result: CheckResult, resolved: Recipe, start: RunStart, *, shown: int, timed: bool, pictures: Path | None
) -> CheckResult:
    collected = _Problems(list(result.problems))
    stream, tasks, sheets = start.stream, [], []
    planned = PlannedData(stream, resolved.method)
    for index, task in enumerate(stream.tasks):
        with collected:
            tasks.append(task_check(resolved, planned, index, shown))
        if pictures is not None and stream.tokenizer is None and stream.has_classes:
            many = max(shown, _MOST_PICTURES)
            sheets.append(
                str(contact_sheet(stream.beginning(index, many), many, LabelWords(task), task.name, pictures))
            )
    if len(tasks) < len(stream.tasks):
        return replace(result, problems=collected.problems, tasks=tasks, pictures=sheets)
    memory = memory_check(resolved, planned, start.model)
    if timed:
        seconds = seconds_of_tasks(resolved, stream, start.model, tasks)
        tasks = [replace(task, seconds=value) for task, value in zip(tasks, seconds, strict=True)]
    warned = [*(warning for task in tasks for warning in data_warnings(task)), *memory_warning(memory)]
    args = training_arguments(resolved.train, Path("runs"), resolved.seeds[0])
    return replace(
        result,
        problems=[*collected.problems, *(Problem("warning", message) for message in warned)],
        model=_model_name(resolved),
        device=str(args.device),
        tasks=tasks,
        controls={control.name: planned.facts[control.name]["test"] for control in stream.controls},
        memory=memory,
        pictures=sheets,
    )


def _model_name(resolved: Recipe) -> str:
    spec = resolved.model
    return spec.name or spec.build or str((spec.config or {}).get("model_type"))
