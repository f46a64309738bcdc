"""Fills the matrices: every score of every task and control, for one model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.evaluation.consent import has_consent
from stockpot.evaluation.measure import measure
from stockpot.evaluation.scores.base import Subject
from stockpot.runs.events import Evaluated, Measured
from stockpot.runs.session import Session
from stockpot.streams.text.part import TextPart


def evaluate_model(session: Session, model: nn.Module, learnt: int) -> Evaluated:
    """One row of every score's matrix, when `learnt` tasks have been learnt."""
    specs = session.recipe.measured
    tasks = [evaluate_task(session, model, index, learnt) for index in range(len(session.stream.tasks))]
    controls = {
        name: _evaluate_control(session, model, number, learnt)
        for number, name in enumerate(control.name for control in session.stream.controls)
    }
    return {
        "scores": {spec.title: [scores[spec.title] for scores in tasks] for spec in specs},
        "controls": {spec.title: {name: scores[spec.title] for name, scores in controls.items()} for spec in specs},
    }


def evaluate_task(session: Session, model: nn.Module, index: int, learnt: int) -> Measured:
    """The scores on task `index` (from 0) when `learnt` tasks have been learnt."""
    name, part = session.stream.tasks[index].name, session.stream.test(index)
    candidates = session.stream.rows.evaluated(index, learnt, session.rows(learnt - 1))
    return _measure(session, model, name, part, candidates, session.recipe.primary_score.title)


def _evaluate_control(session: Session, model: nn.Module, number: int, learnt: int) -> Measured:
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
) -> Measured:
    subject = Subject(
        model=model,
        task=task,
        part=part,
        batch_size=session.recipe.evaluation.batch_size,
        candidates=candidates,
        tokenizer=session.stream.tokenizer,
        allow_code=has_consent(),
    )
    return measure(session.recipe.measured, subject, needed)


def evaluate_late(session: Session, index: int) -> dict[str, list[float | None]]:
    """The scores that task `index` would have had before it was added: of the start model, then after each task.

    None where a model was not kept.
    """
    column: dict[str, list[float | None]] = {spec.title: [] for spec in session.recipe.measured}
    for learnt in range(len(session.run.finished) + 1):
        scores: Mapping[str, float | None] = {}
        if session.run.model(learnt - 1).is_dir():
            session.run.verify_model(learnt - 1)
            scores = evaluate_task(session, session.load(learnt - 1).to(session.device), index, learnt)
        for title, values in column.items():
            values.append(scores.get(title))
    return column
