"""results.json: everything in it comes from the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stockpot import files
from stockpot.evaluation.metrics import control_metrics, stream_metrics
from stockpot.evaluation.scores import AnyScore
from stockpot.methods import find_method
from stockpot.report.beta_layers import beta_note
from stockpot.results import Costs, Results, Scores, TaskBetas
from stockpot.runs.brought_code import decided_method, rows_of
from stockpot.runs.class_answers import class_answers
from stockpot.runs.events import LearntTask
from stockpot.runs.folder import RunFolder


def results_of(run: RunFolder, pending: LearntTask | None = None, first: int | None = None) -> Results:
    """The results of the tasks learnt so far; `pending` is a task that is about to be journalled as done.

    `first` leaves out all tasks but the first so many, as if no more had been learnt.
    """
    learnt: list[LearntTask] = [*run.finished, *([pending] if pending else [])][:first]
    specs, primary = run.recipe.measured, run.recipe.primary_score
    scores = {spec.title: _scores(run, learnt, spec) for spec in specs}
    costs = [Costs(**event["costs"]) for event in learnt]
    betas = [None if (chosen := event.get("betas")) is None else TaskBetas(**chosen) for event in learnt]
    created, recipe = run.created, run.recipe
    names = [task.name for task in run.tasks]
    rows = rows_of(run)
    brought = created.get("brought", {})
    method = brought.get("method") or decided_method(recipe, rows.count(run.begun_tasks))
    forgets = brought["forgets"] if "forgets" in brought else find_method(recipe.method.name).forgets
    notes = [f"optimizer and schedule at a new task: {recipe.boundary}"]
    notes += [f"output rows: {recipe.head}"] if rows.names else []  # a language stream has none
    for event in learnt:
        notes += [note for note in event["notes"] if note not in notes]
    if note := beta_note(names, betas):
        notes.append(note)
    return Results(
        label=created["label"],
        method=method,
        scenario=recipe.scenario,
        tasks=names[: len(learnt)],
        scores=scores,
        primary=primary.title,
        metrics=stream_metrics(scores[primary.title], chained=forgets),
        controls=control_metrics(scores[primary.title]),
        costs=total_costs(costs),
        task_costs=costs,
        betas=betas if any(betas) else [],
        classes=class_answers(run, learnt, rows),
        seed=run.seed,
        head={name: [rows.names[row] for row in task_rows] for name, task_rows in zip(names, rows.tasks, strict=True)},
        notes=notes,
        versions=created["versions"],
        commit=created["commit"],
        data=run.facts,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
    )


def _scores(run: RunFolder, learnt: Sequence[LearntTask], spec: AnyScore) -> Scores:
    title, count = spec.title, len(learnt)
    brought = run.created.get("brought", {}).get("scores", {}).get(title, {})
    first = run.started
    added = run.journal.of("added")
    late = {len(run.tasks) - len(added) + number: event["column"] for number, event in enumerate(added)}

    def score(event_scores: list[float | None], after: int, task: int) -> float | None:
        if task < len(event_scores):
            return event_scores[task]
        column: list[float | None] = late[task][title] if task in late else []
        return column[after] if after < len(column) else None

    return Scores(
        matrix=[
            [score(event["scores"][title], row + 1, task) for task in range(count)] for row, event in enumerate(learnt)
        ],
        initial=[score(first["scores"][title], 0, task) for task in range(count)],
        controls={
            name: [value, *(event["controls"][title][name] for event in learnt)]
            for name, value in first["controls"][title].items()
        },
        higher_is_better=brought.get("higher_is_better", spec.higher_is_better),
        unit=brought.get("unit", spec.unit),
    )


def total_costs(costs: list[Costs]) -> Costs:
    """Seconds, steps and averages add up; memory and storage are the largest of any task."""
    totals: dict[str, Any] = {}
    for name in Costs.model_fields:
        values = [getattr(cost, name) for cost in costs]
        totals[name] = max(values, default=0) if name.endswith("bytes") else sum(values)
    return Costs(**totals)


def write_results(run: RunFolder) -> Results:
    """Writes results.json beside the journal."""
    results = results_of(run)
    files.write_json(run.path / "results.json", results.model_dump(mode="json"))
    return results
