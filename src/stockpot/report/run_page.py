"""`report.html` of one run, or of several side by side; the same figures as PNG and SVG beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stockpot.evaluation.metrics import control_metrics
from stockpot.report import stream_figures
from stockpot.report.beta_figures import beta_caption, betas_by_depth
from stockpot.report.beta_layers import HOW_TO_READ, WHAT_BETA_IS, run_grid
from stockpot.report.findings import run_summary
from stockpot.report.formatting import MISSING, score, seconds, signed
from stockpot.report.html import Gallery, write_page
from stockpot.report.method_costs import cost_rows
from stockpot.report.other_scores import other_scores_of_run, score_heading
from stockpot.report.tables import Grid, metric_rows
from stockpot.results import Results, Scores
from stockpot.yaml_text import dump_yaml

FEW_ROWS = 40  # of a table on the page
MOMENTS = ["before", "just learnt", "at its worst since", "at the end"]  # of a task, where there are many


def write_run_report(results: list[tuple[str, Results]], folder: Path, pdf: bool = False) -> Path:
    """Writes the report of one or several runs.

    Args:
        results: (name, results) of each run.
        folder: Where `report.html` and `figures/` are written.
        pdf: Whether the figures are written as PDF too.

    Returns:
        The path of `report.html`.
    """
    gallery = Gallery(folder / "figures", pdf)
    runs = []
    for index, (name, run) in enumerate(results):
        stem = "" if len(results) == 1 else f"{index + 1:02d}-{_slug(name)}-"
        runs.append(_run(name, run, gallery, stem))
    heading = results[0][0] if len(results) == 1 else f"{len(results)} runs"
    return write_page("run.html.j2", folder, title=heading, runs=runs, overview=_overview(results))


def _run(name: str, run: Results, gallery: Gallery, stem: str) -> dict[str, Any]:
    scores = run.scores[run.primary]
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
        "findings": run_summary(run),
        "figures": pictures,
        "metrics": metric_rows(run),
        "betas": _betas(run, gallery, stem),
        "costs": Grid(
            "Wall-clock time unless it says processor; sizes in decimal units",
            ["whole stream"],
            cost_rows([run.costs]),
            "cost",
        ),
        "task_costs": _task_costs(run),
        "heading": score_heading(run.primary, scores),
        "grids": _grids(run, run.primary, f"Every {run.primary}"),
        "other": other_scores_of_run(run),
        "others": [
            grid
            for name in run.scores
            if name != run.primary
            for grid in _grids(run, name, score_heading(name, run.scores[name]))
        ],
        "head": run.head if 0 < sum(map(len, run.head.values())) <= FEW_ROWS else {},
        "recipe": dump_yaml(run.recipe),
    }


def _betas(run: Results, gallery: Gallery, stem: str) -> dict[str, Any] | None:
    """β through the model and by task; None for a run that chose none."""
    table = run_grid(run)
    if table is None:
        return None
    alt = "β through the depth of the model, by task; its mean for each task is in the table below."
    picture = gallery.add(betas_by_depth([run]), f"{stem}betas", alt, beta_caption([run]))
    return {"sentence": WHAT_BETA_IS, "reading": HOW_TO_READ, "figures": [picture], "table": table}


def over_time_caption(tasks: int) -> str:
    """What the trajectories show: each task, or of many tasks a summary."""
    if tasks > stream_figures.MANY_TASKS:
        return (
            "After each task: the mean score of the tasks learnt so far, the range from the worst of them to the best, "
            "and the task just learnt; the heat map shows every task"
        )
    return "Each task's score over the stream. The large mark is where the task was just learnt"


def _grids(run: Results, name: str, caption: str) -> list[Grid]:
    """One score as tables: every task after each task, or of many tasks at four moments; and the controls."""
    scores = run.scores[name]

    def written(values: list[float | None]) -> list[str]:
        return ["" if value is None else score(value, scores.unit) for value in values]

    stages = ["start", *run.tasks[: len(scores.matrix)]]
    rows = list(zip(stages, map(written, [scores.initial, *scores.matrix]), strict=True))
    grids = [Grid(f"{caption}, after each task", run.tasks, rows, "after \\ on")]
    if len(run.tasks) > FEW_ROWS:
        rows = [(run.tasks[i], written(_moments(scores, i))) for i in range(len(scores.matrix))]
        grids = [Grid(f"{caption}, at four moments; results.json has it after each task", MOMENTS, rows, "task")]
    controls = [(control, row) for control, values in scores.controls.items() if any(row := written(values))]
    return (
        [*grids, Grid(f"{caption} of the controls, never trained on", stages, controls, "data")] if controls else grids
    )


def _task_costs(run: Results) -> Grid | None:
    """The costs of each task: a column each, or of many tasks a row each."""
    rows, tasks = cost_rows(run.task_costs), run.tasks[: len(run.task_costs)]
    if not rows:
        return None
    if len(tasks) <= FEW_ROWS:
        return Grid("The same for every task", tasks, rows, "cost")
    turned = list(zip(tasks, map(list, zip(*(values for _, values in rows), strict=True)), strict=True))
    return Grid("The same for every task", [name for name, _ in rows], turned, "task")


def _moments(scores: Scores, task: int) -> list[float | None]:
    """A task's score before the stream, just learnt, at its worst since, and at the end."""
    since = [row[task] for row in scores.matrix[task:]]
    known = [value for value in since if value is not None]
    worst = (min if scores.higher_is_better else max)(known, default=None)
    return [scores.initial[task], since[0], worst, since[-1]]


def _overview(results: list[tuple[str, Results]]) -> Grid | None:
    """Several runs side by side, with each control's change since the start; None for one run."""
    if len(results) < 2:
        return None
    controls = list(dict.fromkeys(name for _, run in results for name in run.scores[run.primary].controls))
    rows = []
    for name, run in results:
        m, scores = run.metrics, run.scores[run.primary]
        values = [score(value, scores.unit) for value in (m.average_accuracy, m.forgetting, m.newest_accuracy)]
        known = control_metrics(scores)
        changes = [signed(known[c].change, scores.unit) if c in known else MISSING for c in controls]
        rows.append((name, [run.label, str(run.seed), *values, *changes, seconds(run.costs.training_seconds)]))
    changes = [f"{control} since the start" for control in controls]
    headings = ["method", "seed", "average", "forgetting", "newest task", *changes, "training"]
    return Grid("The runs side by side, 1 seed each", headings, rows, "run")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-")[:40] or "run"
