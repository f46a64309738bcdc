"""Which task, and which model of a run, is meant by the name of a task."""

from __future__ import annotations

from stockpot.api import frames
from stockpot.errors import StockpotError
from stockpot.results import START_ROW
from stockpot.runs.folder import RunFolder


def learnt_tasks(run: RunFolder) -> list[str]:
    """The names of the tasks that a run has learnt."""
    return [task.name for task in run.tasks[: len(run.finished)]]


def known_task(run: RunFolder, name: str, *others: str) -> str:
    """The name, if it is that of a task learnt, or one of `others`; raises StockpotError for any other."""
    learnt = learnt_tasks(run)
    if name not in (*learnt, *others) and name in [task.name for task in run.tasks]:
        raise StockpotError(f"{run.path}: task {name!r} is not learnt yet; go on with `stockpot resume {run.path}`.")
    known = {each: each for each in (*others, *learnt)}
    return frames.named("task", name, known, name)


def learnt_index(run: RunFolder, after: str | None) -> int:
    """The index of the task that was learnt last before a model, −1 for the start model.

    Raises StockpotError where there is no such task, it is not learnt yet, or its model was not kept.
    """
    learnt = learnt_tasks(run)
    if after is None:
        return len(learnt) - 1
    if known_task(run, after, START_ROW) not in learnt:
        return -1
    index = learnt.index(after)
    if not run.model(index).is_dir() and run.recipe.keep != "all":
        raise StockpotError(f"{run.path}: the model after {after!r} is gone (keep: {run.recipe.keep}).")
    return index
