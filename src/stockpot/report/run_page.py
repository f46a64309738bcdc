"""`report.html` of one run, or of several side by side; the same figures as PNG and SVG beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stockpot.evaluation.metrics import control_metrics
from stockpot.report import stream_figures
from stockpot.report.beta_figures import beta_caption, betas_by_depth
from stockpot.report.beta_layers import HOW_TO_READ, WHAT_BETA_IS, run_grid
from stockpot.report.class_section import class_section
from stockpot.report.findings import run_summary
from stockpot.report.formatting import MISSING, score, seconds, signed
from stockpot.report.html import Gallery, write_page
from stockpot.report.method_costs import cost_rows
from stockpot.report.other_scores import other_scores_of_run, score_heading
from stockpot.report.tables import Grid, metric_rows
from stockpot.results import START_ROW, Results, Scores
from stockpot.yaml_text import dump_yaml

FEW_TASKS = 10  # beyond these, tables have a row for each task and not a column
FEW_ROWS = 16  # of the table that a page begins with; beyond these, the `TASKS_SHOWN` tasks
TASKS_SHOWN = 8
MOMENTS = [START_ROW, "just learnt", "at its worst since", "at the end"]  # of a task
SENTENCES = 5  # below the first picture and table; the rest is folded away


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
    overview = _overview(results)
    lead = runs[0]["lead"] if overview is None else _side_by_side(results, gallery)
    return write_page("run.html.j2", folder, gallery, title=heading, runs=runs, overview=overview, lead=lead)


def _run(name: str, run: Results, gallery: Gallery, stem: str) -> dict[str, Any]:
    scores = run.scores[run.primary]
    lead, heat = [], []
    if scores.matrix:
        caption = over_time_caption(len(run.tasks)) + (
            "; dashed: controls, never trained on." if scores.controls else "."
        )
        lead = [
            gallery.add(
                stream_figures.over_time(run),
                f"{stem}tasks-over-time",
                f"Each task's {run.primary} over the stream; the numbers are in the table below.",
                caption,
            )
        ]
        heat = [
            gallery.add(
                stream_figures.matrix(run),
                f"{stem}matrix",
                f"The matrix of {run.primary} as a heat map; the numbers are in the table below.",
                "Rows: after learning a task; columns: the task scored. Brighter is better; blank was not measured.",
            )
        ]
    planned = len(run.recipe.get("tasks") or run.tasks)
    return {
        "name": name,
        "unfinished": f"unfinished: {len(run.tasks)} of {planned} tasks" if planned > len(run.tasks) else "",
        "results": run,
        "findings": run_summary(run)[:SENTENCES],
        "lead": lead,
        "first_table": _first_table(run),
        "matrix": heat,
        "classes": class_section(run, gallery, stem),
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
        "head": run.head if 0 < sum(map(len, run.head.values())) <= 40 else {},
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

    stages = [START_ROW, *run.tasks[: len(scores.matrix)]]
    rows = list(zip(stages, map(written, [scores.initial, *scores.matrix]), strict=True))
    grids = [Grid(f"{caption}, after each task", run.tasks, rows, "after \\ on")]
    if len(run.tasks) > FEW_TASKS:
        rows = [(run.tasks[i], written(_moments(scores, i))) for i in range(len(scores.matrix))]
        grids = [Grid(f"{caption}, at four moments; results.json has it after each task", MOMENTS, rows, "task")]
    controls = {control: row for control, values in scores.controls.items() if any(row := written(values))}
    if controls:
        over = list(zip(stages, map(list, zip(*controls.values(), strict=True)), strict=False))
        grids.append(Grid(f"{caption} of the controls, never trained on", list(controls), over, "after"))
    return grids


def _first_table(run: Results) -> Grid:
    """Each task at four moments, and what it lost; of many tasks those that lost most."""
    scores = run.scores[run.primary]
    worse = 1 if scores.higher_is_better else -1
    rows, losses = [], []
    for i in range(len(scores.matrix)):
        moments = _moments(scores, i)
        since, end = moments[1], moments[3]
        change = None if since is None or end is None else end - since
        texts = [score(value, scores.unit) for value in moments]
        rows.append((run.tasks[i], [*texts, signed(change, scores.unit)]))
        losses.append((change or 0.0) * worse)
    unit = score_heading(run.primary, scores)
    heading = f"Each task's {unit}: before the stream (start), and since"
    if len(rows) > FEW_ROWS:
        most = sorted(range(len(rows)), key=losses.__getitem__)[:TASKS_SHOWN]
        rows = [rows[i] for i in most]
        heading = f"The {TASKS_SHOWN} of {len(losses)} tasks that lost most: {unit}"
    return Grid(heading, [*MOMENTS, "since learnt"], rows, "task")


def _task_costs(run: Results) -> Grid | None:
    """The costs of each task: a column each, or of many tasks a row each."""
    rows, tasks = cost_rows(run.task_costs), run.tasks[: len(run.task_costs)]
    if not rows:
        return None
    if len(tasks) <= FEW_TASKS:
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


def _side_by_side(results: list[tuple[str, Results]], gallery: Gallery) -> list[dict[str, Any]]:
    """The runs over the stream as one picture; none if they are measured by different scores."""
    measured = [(name, run) for name, run in results if run.scores[run.primary].matrix]
    if not measured or len({(run.primary, run.scores[run.primary].unit) for _, run in measured}) > 1:
        return []
    alt = "The mean score of the tasks learnt so far, a line for each run; the averages are in the table below."
    caption = "After each task: the mean score of the tasks learnt so far, a line for each run."
    return [gallery.add(stream_figures.runs_over_time(measured), "runs-over-time", alt, caption)]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-")[:40] or "run"
