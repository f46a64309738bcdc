"""The answers that a run's evaluations counted, by the names of classes."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.evaluation.predictions import AnswerCounts, wrong_answers
from stockpot.results import ClassAnswers
from stockpot.runs.brought_code import rows_of
from stockpot.runs.events import LearntTask
from stockpot.runs.folder import RunFolder
from stockpot.streams.scenario import SCENARIOS, Rows

Stages = list[AnswerCounts | None]  # before the first task, then after each


def class_answers(run: RunFolder, learnt: Sequence[LearntTask], rows: Rows) -> dict[str, ClassAnswers]:
    """Name of each task learnt and each control → how its classes were answered; empty where that was not counted."""
    tasks = [task.name for task in run.tasks][: len(learnt)]
    controls = [control.name for control in run.recipe.controls]
    counted: dict[str, ClassAnswers] = {}
    for name in (*tasks, *(controls if rows.scenario in SCENARIOS else [])):  # else their rows are not known here
        stages = _stages(run, learnt, name)
        if any(stages):
            classes = run.facts[name]["classes"]
            counted[name] = by_name(stages, classes, _rows_of(rows, classes, tasks, name), rows)
    return counted


def classes_after(run: RunFolder, tasks: int) -> dict[str, ClassAnswers]:
    """`class_answers` as they were when a run had learnt so many tasks."""
    return class_answers(run, run.finished[:tasks], rows_of(run))


def _stages(run: RunFolder, learnt: Sequence[LearntTask], name: str) -> Stages:
    """What each evaluation counted; of a task that was added later, what the models before it were evaluated for."""
    late = {event["task"]["name"]: event.get("answers", []) for event in run.journal.of("added")}.get(name, [])
    stages: Stages = []
    for stage, event in enumerate([run.started, *learnt]):
        counts = event.get("answers", {}).get(name)
        stages.append(late[stage] if counts is None and stage < len(late) else counts)
    return stages


def _rows_of(rows: Rows, classes: Sequence[str], tasks: Sequence[str], name: str) -> Sequence[int]:
    if name in tasks:
        return rows.tasks[tasks.index(name)]
    if rows.scenario == "domain-incremental":
        return range(len(classes))
    return [rows.names.index(each) for each in classes]  # of a control, whose classes are the tasks'


def by_name(stages: Stages, classes: Sequence[str], class_rows: Sequence[int], rows: Rows) -> ClassAnswers:
    """Counts of rows as counts of classes; `class_rows` are the rows of the classes.

    Classes that share a row are one here, `cat / dog`: no answer tells them apart.
    """
    sharing: dict[int, list[str]] = {}
    for row, name in zip(class_rows, classes, strict=True):
        sharing.setdefault(row, []).append(name)
    names = {row: " / ".join(each) for row, each in sharing.items()}
    known = [counts for counts in stages if counts is not None]
    examples = dict(zip(known[-1]["rows"], known[-1]["examples"], strict=True))
    answers: dict[int, dict[str, int]] = {row: {} for row in names}
    if (last := stages[-1]) is not None:
        for row, hits in zip(last["rows"], last["correct"], strict=True):
            answers[row] |= {names[row]: hits} if hits else {}
        for row, answer, many in wrong_answers(last):
            answers[row][names.get(answer) or _name(rows, answer)] = many
    return ClassAnswers(
        classes=list(names.values()),
        examples=[examples.get(row, 0) for row in names],
        correct=[None if counts is None else _correct(counts, list(names)) for counts in stages],
        answers=list(answers.values()),
    )


def _correct(counts: AnswerCounts, class_rows: Sequence[int]) -> list[int]:
    hits = dict(zip(counts["rows"], counts["correct"], strict=True))
    return [hits.get(row, 0) for row in class_rows]


def _name(rows: Rows, row: int) -> str:
    """The class of a row that is none of the part's own."""
    return f"row {row}" if rows.scenario == "domain-incremental" else rows.names[row]
