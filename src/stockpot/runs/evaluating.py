"""Fills the matrices: every score of every task and control, for one model."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.evaluation.consent import has_consent
from stockpot.evaluation.measure import measure
from stockpot.evaluation.predictions import AnswerCounts
from stockpot.evaluation.scores.base import Subject
from stockpot.runs.events import Evaluated, LateEvaluation, Measured
from stockpot.runs.session import Session
from stockpot.streams.text.part import TextPart


class PartEvaluation(NamedTuple):
    """One model on the test part of one task or control."""

    scores: Measured
    answers: AnswerCounts | None  # of a classifier


def evaluate_model(session: Session, model: nn.Module, learnt: int) -> Evaluated:
    """One row of every score's matrix, when `learnt` tasks have been learnt."""
    specs = session.recipe.measured
    tasks = [evaluate_task(session, model, index, learnt) for index in range(len(session.stream.tasks))]
    controls = {
        name: _evaluate_control(session, model, number, learnt)
        for number, name in enumerate(control.name for control in session.stream.controls)
    }
    names = [task.name for task in session.stream.tasks]
    parts = {**dict(zip(names, tasks, strict=True)), **controls}
    return {
        "scores": {spec.title: [part.scores[spec.title] for part in tasks] for spec in specs},
        "controls": {spec.title: {name: part.scores[spec.title] for name, part in controls.items()} for spec in specs},
        "answers": {name: part.answers for name, part in parts.items() if part.answers is not None},
    }


def evaluate_task(session: Session, model: nn.Module, index: int, learnt: int) -> PartEvaluation:
    """The scores on task `index` (from 0) when `learnt` tasks have been learnt."""
    name, part = session.stream.tasks[index].name, session.stream.test(index)
    candidates = session.stream.rows.evaluated(index, learnt, session.rows(learnt - 1))
    return _measure(session, model, name, part, candidates, session.recipe.primary_score.title)


def _evaluate_control(session: Session, model: nn.Module, number: int, learnt: int) -> PartEvaluation:
    control, part = session.stream.controls[number], session.stream.control(number)
    rows = session.rows(learnt - 1)
    candidates = session.stream.rows.evaluated(0, learnt, rows)
    candidates[[row for row in control.rows if row < rows]] = True
    return _measure(session, model, control.name, part, candidates)


def _measure(
    session: Session,
    model: nn.Module,
    task: str,
    part: Examples | TextPart,
    candidates: Tensor,
    needed: str | None = None,
) -> PartEvaluation:
    subject = Subject(
        model=model,
        task=task,
        part=part,
        batch_size=session.recipe.evaluation.batch_size,
        candidates=candidates,
        tokenizer=session.stream.tokenizer,
        allow_code=has_consent(),
    )
    return PartEvaluation(measure(session.recipe.measured, subject, needed), subject.answer_counts())


def evaluate_late(session: Session, index: int) -> LateEvaluation:
    """The scores that task `index` would have had before it was added: of the start model, then after each task.

    None where a model was not kept.
    """
    column: dict[str, list[float | None]] = {spec.title: [] for spec in session.recipe.measured}
    answers: list[AnswerCounts | None] = []
    for learnt in range(len(session.run.finished) + 1):
        part = PartEvaluation({}, None)
        if session.run.model(learnt - 1).is_dir():
            session.run.verify_model(learnt - 1)
            part = evaluate_task(session, session.load(learnt - 1).to(session.device), index, learnt)
        answers.append(part.answers)
        for title, values in column.items():
            values.append(part.scores.get(title))
    return {"column": column, "answers": answers}
