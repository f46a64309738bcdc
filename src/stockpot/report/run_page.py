"""`report.html` of one run, or of several side by side; the same figures as PNG and SVG beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stockpot.evaluation.metrics import control_metrics
from stockpot.report import findings, other_scores, stream_figures, tables
from stockpot.report.formatting import MISSING, score, seconds, signed
from stockpot.report.html import Gallery, write_page
from stockpot.results import Results, Scores
from stockpot.yaml_text import dump_yaml

FEW_ROWS = 40
MOMENTS = ["before", "just learnt", "at its worst since", "at the end"]  # of a task, where there are many


def write_run_report(results: list[tuple[str, Results]], folder: Path) -> Path:
    """The report of one or several runs, given as (name, results): `folder/report.html`, whose path is returned."""
    gallery = Gallery(folder / "figures")
    runs = []
    for index, (name, run) in enumerate(results):
        stem = "" if len(results) == 1 else f"{index + 1:02d}-{_slug(name)}-"
        runs.append(_run(name, run, gallery, stem))
    heading = results[0][0] if len(results) == 1 else f"{len(results)} runs"
    return write_page("run.html.j2", folder, title=heading, runs=runs, overview=_overview(results))


def _run(name: str, run: Results, gallery: Gallery, stem: str) -> dict[str, Any]:
    scores = run.scores[run.primary]
    grids = _grids(run, run.primary)
    pictures = []
    if scores.matrix:
        pictures = [
            gallery.add(
                stream_figures.matrix(run),
                f"{stem}matrix",
                f"The matrix of {run.primary} as a heat map; the numbers are in the table below.",
                "Rows: after learning a task; columns: the task scored. Brighter is better; blank was not measured.",
            ),
            gallery.add(
                stream_figures.over_time(run),
                f"{stem}tasks-over-time",
                f"Each task's {run.primary} over the stream; the numbers are in the table below.",
                over_time_caption(len(run.tasks))
                + ("; dashed: controls, never trained on." if scores.controls else "."),
            ),
        ]
    planned = len(run.recipe.get("tasks") or run.tasks)
    return {
        "name": name,
        "unfinished": f"unfinished: {len(run.tasks)} of {planned} tasks" if planned > len(run.tasks) else "",
        "results": run,
        "findings": findings.run_summary(run),
        "figures": pictures,
        "metrics": tables.metric_rows(run),
        "costs": tables.cost_rows([run.costs]),
        "task_costs": _task_costs(run),
        **grids,
        "told": other_scores.score_heading(run.primary, scores),
        "beside": other_scores.other_scores_of_run(run),
        "others": {
            other_scores.score_heading(title, run.scores[title]): _grids(run, title)
            for title in run.scores
            if title != run.primary
        },
        "stages": ["start", *run.tasks[: len(scores.matrix)]],
        "head": run.head if 0 < sum(map(len, run.head.values())) <= FEW_ROWS else {},
        "recipe": dump_yaml(run.recipe),
    }


def over_time_caption(tasks: int) -> str:
    if tasks > stream_figures.MANY_TASKS:
        return (
            "After each task: the mean score of the tasks learnt so far, from the worst of them to the best, and the "
            "task just learnt; the heat map has them one by one"
        )
    return "Each task's score over the stream. The large mark is where the task was just learnt"


def _grids(run: Results, title: str) -> dict[str, Any]:
    """One score as tables: of every task after each, of many tasks at four moments, and of the controls."""
    scores = run.scores[title]
    headings, caption, corner = run.tasks, "after each task", "after \\ on"

    def written(values: list[float | None]) -> list[str]:
        return ["" if value is None else score(value, scores.unit) for value in values]

    scored = [("start", written(scores.initial)), *zip(run.tasks, map(written, scores.matrix), strict=False)]
    if len(run.tasks) > FEW_ROWS:
        headings, caption, corner = MOMENTS, "at four moments; results.json has it after each task", "task"
        scored = [(run.tasks[i], written(_moments(scores, i))) for i in range(len(scores.matrix))]
    return {
        "headings": headings,
        "caption": caption,
        "corner": corner,
        "scored": scored,
        "controls": [(control, row) for control, values in scores.controls.items() if any(row := written(values))],
    }


def _task_costs(run: Results) -> dict[str, Any] | None:
    """The costs of each task: a column each, or where there are many a row each."""
    rows, tasks = tables.cost_rows(run.task_costs), run.tasks[: len(run.task_costs)]
    if not rows:
        return None
    if len(tasks) <= FEW_ROWS:
        return {"headings": tasks, "rows": rows, "corner": "cost"}
    turned = list(zip(tasks, zip(*(values for _, values in rows), strict=True), strict=True))
    return {"headings": [name for name, _ in rows], "rows": turned, "corner": "task"}


def _moments(scores: Scores, task: int) -> list[float | None]:
    """A task's score before the stream, just learnt, at its worst since, and at the end."""
    since = [row[task] for row in scores.matrix[task:]]
    known = [value for value in since if value is not None]
    worst = (min if scores.higher_is_better else max)(known, default=None)
    return [scores.initial[task], since[0], worst, since[-1]]


def _overview(results: list[tuple[str, Results]]) -> dict[str, Any] | None:
    """One row a run, where there are several; of each control its change since the start."""
    if len(results) < 2:
        return None
    names = list(dict.fromkeys(name for _, run in results for name in run.scores[run.primary].controls))
    rows = []
    for name, run in results:
        m, scores = run.metrics, run.scores[run.primary]
        values = [score(value, scores.unit) for value in (m.average_accuracy, m.forgetting, m.newest_accuracy)]
        known = control_metrics(scores)
        changes = [signed(known[one].change, scores.unit) if one in known else MISSING for one in names]
        rows.append((name, run.label, str(run.seed), *values, *changes, seconds(run.costs.training_seconds)))
    headings = ["average", "forgetting", "newest task", *(f"{one} since the start" for one in names), "training"]
    return {"headings": headings, "rows": rows}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-")[:40] or "run"
