"""What is checked before a run has a folder: data, settings, model and methods, as the run will have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stockpot.errors import StockpotError
from stockpot.methods.base import BaseConfig, TaskFacts
from stockpot.models.lora import attach
from stockpot.models.start import start_model
from stockpot.recipe.schema import Recipe
from stockpot.runs.model_checks import check_model
from stockpot.runs.session import check_consent, open_stream
from stockpot.runs.weighing import check_weights
from stockpot.streams.spec import TaskSpec
from stockpot.streams.stream import Stream
from stockpot.training.job import training_arguments


@dataclass(frozen=True)
class RunStart:
    """A recipe's stream and start model; under `model.lora` the model has an adapter, as in training."""

    stream: Stream
    model: nn.Module
    rows: int  # of the start model's output


def check_start(resolved: Recipe, methods: Sequence[BaseConfig] = ()) -> Stream:
    """Opens the stream; raises StockpotError where it, the training settings, the model or a method would fail later.

    `methods` are the methods to check; by default the recipe's alone.
    """
    return open_start(resolved, methods or [resolved.method]).stream


def open_start(resolved: Recipe, methods: Sequence[BaseConfig]) -> RunStart:
    """What a run starts from. Raises StockpotError as `check_start` does."""
    assert isinstance(resolved.tasks, list), "a resolved recipe lists its tasks"
    check_measures(resolved)
    stream = open_stream(resolved)
    for task in resolved.tasks:
        for method in methods:
            settings = task_settings(resolved, method, task)
            training_arguments(settings, Path("runs"), resolved.seeds[0])
            check_weights(settings, stream)
    rows = start_rows(resolved, stream)
    model = start_model(resolved.model, rows, resolved.seeds[0], resolved.kind, stream.tokenizer, resolved.problem)
    check_model(model, stream, rows)
    for problem in method_problems(resolved, methods, stream, model):
        raise StockpotError(problem)
    if resolved.model.lora is not None:
        model = attach(model, resolved.model.lora, seed=0)  # raises now what would be refused later
    return RunStart(stream, model, rows)


def method_problems(resolved: Recipe, methods: Sequence[BaseConfig], stream: Stream, model: nn.Module) -> Iterator[str]:
    """Why methods cannot work with the start model or the tasks."""
    facts, language = stream.facts(), not stream.has_classes
    tasks = [
        TaskFacts(task.name, max(1, len(task.classes)), facts[task.name]["train"], language, resolved.problem)
        for task in stream.tasks
    ]
    for method in methods:
        if problem := method.problem_with_model(resolved.model) or method.problem_in(model, tasks):
            yield f"method {method.title!r}: {problem}"


def task_settings(resolved: Recipe, method: BaseConfig, task: TaskSpec) -> dict[str, Any]:
    """The training settings of a task: those of the recipe, of the method, and its own, of which later ones win."""
    return {**resolved.train, **(method.train or {}), **task.train}


def check_measures(recipe: Recipe) -> None:
    """Raises StockpotError for a score that the recipe's tasks cannot have, or that runs code without consent."""
    if not recipe.metrics and recipe.primary is None:
        return
    from stockpot.evaluation.measure import check_scores

    assert isinstance(recipe.tasks, list), "a resolved recipe lists its tasks"
    tasks, controls = ([task.name for task in some] for some in (recipe.tasks, recipe.controls))
    check_scores(recipe.measured, tasks, controls, recipe.suited, recipe.primary)
    check_consent(recipe)


def start_rows(resolved: Recipe, stream: Stream) -> int:
    """Output rows of the start model: of all classes, or of the first task's."""
    return stream.rows.count(len(stream.tasks) if resolved.head != "seen" else 1)
