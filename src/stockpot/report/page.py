"""`report.html`: one file that needs nothing else, and the same figures as PNG and SVG beside it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from stockpot.evaluation.metrics import of_controls
from stockpot.files import write_text
from stockpot.report import (
    beside,
    figures,
    front,
    front_captions,
    front_figures,
    orders,
    sentences,
    stream_figures,
    tables,
    tuning,
)
from stockpot.report.answers import answers
from stockpot.report.formatting import (
    METRICS,
    MISSING,
    all_runs,
    heading,
    leading,
    named,
    over_runs,
    score,
    seconds,
    seeds,
    signed,
)
from stockpot.report.svg import inline
from stockpot.results import Comparison, Results, Scores
from stockpot.yaml_text import dump_yaml

FEW_ROWS = 40
MOMENTS = ["before", "just learnt", "at its worst since", "at the end"]  # of a task, where there are many
FEW_METHODS = 8  # beyond which tables and matrices show the best, and fold the rest away
BEST = 4


class Gallery:
    """Saves figures under a folder and hands them to the page, each under ids of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def add(self, figure: Figure, name: str, alt: str, caption: str) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        figures.save(figure, self.folder / name)
        self.count += 1
        wide = figure.get_figwidth() > figures.WIDTH + 0.5
        return {"svg": inline(figure, f"fig{self.count}", alt), "caption": caption, "alt": alt, "wide": wide}


def write_run_report(results: list[tuple[str, Results]], folder: Path) -> Path:
    """The report of one or several runs, given as (name, results): `folder/report.html`, whose path is returned."""
    gallery = Gallery(folder / "figures")
    runs = []
    for index, (name, run) in enumerate(results):
        stem = "" if len(results) == 1 else f"{index + 1:02d}-{_slug(name)}-"
        runs.append(_run(name, run, gallery, stem))
    heading = results[0][0] if len(results) == 1 else f"{len(results)} runs"
    return write_page("run.html.j2", folder, title=heading, runs=runs, overview=_overview(results))


def write_comparison_report(
    comparison: Comparison, cells: dict[str, list[Results]], folder: Path, doubts: Sequence[str] = ()
) -> Path:
    """The report of a comparison, whose finished runs `cells` are given by label: `folder/report.html`.

    `doubts` are what a reader must know of the files that it is made of.
    """
    gallery = Gallery(folder / "figures")
    percent = f"{100 * comparison.confidence:g} %"
    versus = [
        gallery.add(
            figures.methods(comparison, metric),
            f"methods-{metric.replace('_', '-')}",
            f"{heading(metric, comparison.primary)} of every method with its {percent} interval; "
            "the numbers are in the table of methods.",
            f"{heading(metric, comparison.primary)}. Large mark: mean; n: seeds, or orders where there are "
            f"several; bar: its {percent} interval, cut at the frame; "
            "small dots: single runs.",
        )
        for metric in sentences.TESTED
    ]
    versus.append(
        gallery.add(
            figures.stability_plasticity(comparison),
            "stability-plasticity",
            "Stability against plasticity, one mark a method; the numbers are in the tables.",
            "Stability against plasticity; up and right is better. "
            + ("" if len(comparison.methods) > figures.MANY else f"Bars: {percent} intervals. ")
            + f"Means over {all_runs(comparison)}. "
            "Methods whose forgetting is not defined (joint training) are left out.",
        )
    )
    few = leading(comparison, BEST if len(comparison.methods) > FEW_METHODS else FEW_METHODS)
    first_order = _first_order(comparison, cells)
    shown = {label: runs for label, runs in first_order.items() if label in few}
    folded = {label: runs for label, runs in first_order.items() if label not in few}
    notes: dict[str, list[str]] = defaultdict(list)
    for label, runs in cells.items():
        for note in dict.fromkeys(note for run in runs for note in run.notes):
            notes[note].append(label)
    rows = tables.comparison_rows(comparison)
    first = next((run for runs in cells.values() for run in runs), None)
    return write_page(
        "comparison.html.j2",
        folder,
        title=comparison.name,
        comparison=comparison,
        answers=answers(comparison),
        runs=all_runs(comparison),
        percent=percent,
        over=over_runs(comparison),
        doubts=doubts,
        rows=rows,
        few_rows=[row for row in rows if row.label in few],
        differences=[
            (heading(m, comparison.primary), found)
            for m in sentences.TESTED
            if (found := tables.difference_rows(comparison, m))
        ],
        beside=beside.of_comparison(comparison, cells),
        costs=tables.method_costs(comparison),
        tuning=_tuning(comparison, gallery),
        front=_front(comparison, gallery),
        orders=_orders(comparison, gallery),
        versus=versus,
        stream=_stream(comparison, shown, gallery),
        more_matrices=[_matrices(comparison, folded, gallery, "-of-the-others")] if folded else [],
        notes=notes,
        explanations=[(named(key, comparison.primary), text) for key, (_, text) in METRICS.items()],
        methods=as_yaml({label: summary.method for label, summary in comparison.methods.items()}),
        recipe=as_yaml(first.recipe) if first else "",
    )


def _first_order(comparison: Comparison, cells: dict[str, list[Results]]) -> dict[str, list[Results]]:
    """The runs of the first order alone, for elsewhere the tasks stand in other places."""
    if len(comparison.orders) < 2:
        return cells
    found = {label: [run for run in runs if run.tasks == comparison.orders[0]] for label, runs in cells.items()}
    return {label: runs for label, runs in found.items() if runs}


def _where(comparison: Comparison) -> str:
    return ", in the first order of the tasks only" if len(comparison.orders) > 1 else ""


def _stream(comparison: Comparison, cells: dict[str, list[Results]], gallery: Gallery) -> list[dict[str, Any]]:
    """Trajectories and matrices of the methods in `cells`."""
    if not cells:
        return []
    lines = gallery.add(
        stream_figures.tasks_over_time(comparison, cells),
        "tasks-over-time",
        "Each task's score after every task, one panel a method.",
        f"{_over_time(len(comparison.tasks))}; means over n seeds{_where(comparison)}.",
    )
    return [lines, _matrices(comparison, cells, gallery)]


def _over_time(tasks: int) -> str:
    if tasks > stream_figures.MANY_TASKS:
        return (
            "After each task: the mean score of the tasks learnt so far, from the worst of them to the best, and the "
            "task just learnt; the heat map has them one by one"
        )
    return "Each task's score over the stream. The large mark is where the task was just learnt"


def _matrices(
    comparison: Comparison, cells: dict[str, list[Results]], gallery: Gallery, ending: str = ""
) -> dict[str, Any]:
    return gallery.add(
        stream_figures.mean_matrices(comparison, cells),
        f"mean-matrices{ending}",
        "The mean score matrices as heat maps, one a method.",
        f"The mean matrix over n seeds{_where(comparison)}: rows after learning a task, columns the task scored. "
        "Brighter is better; blank was not measured.",
    )


def _tuning(comparison: Comparison, gallery: Gallery) -> dict[str, Any] | None:
    if comparison.tuning is None:
        return None
    pictures = []
    if tuning.tuned(comparison):
        caption = "Each trial's score over the parameter searched, or by its number; the large mark was chosen. "
        caption += f"Means over {seeds(len(comparison.tuning.seeds))}."
        alt = "The score of every trial, one panel a method; the best are in the table."
        pictures = [gallery.add(tuning.figure(comparison), "tuning", alt, caption)]
    return {"sentences": tuning.sentences(comparison), "rows": tuning.rows(comparison), "figures": pictures}


def _front(comparison: Comparison, gallery: Gallery) -> dict[str, Any] | None:
    lines = front.curves(comparison)
    if not lines:
        return None
    alt = f"{heading('past_accuracy', comparison.primary)} against the newest, one line a method by its strengths."
    pictures = [gallery.add(front_figures.figure(comparison), "front", alt, front_captions.of_all(comparison))]
    if len(lines) > front_figures.FEW:
        alt, caption = "The same, a panel a method.", front_captions.of_each(comparison)
        pictures.append(gallery.add(front_figures.each(comparison), "front-each", alt, caption))
    return {"sentences": front.sentences(comparison), "figures": pictures}


def _orders(comparison: Comparison, gallery: Gallery) -> dict[str, Any] | None:
    if len(comparison.orders) < 2:
        return None
    average = heading("average_accuracy", comparison.primary)
    over = f"means over the seeds of the order ({all_runs(comparison)})"
    caption = f"{average} in each order, by its number: {over}."
    alt = f"{average} of every method in every order; the numbers are in the table."
    return {
        "sentences": orders.sentences(comparison),
        "figures": [gallery.add(orders.figure(comparison), "orders", alt, caption)],
        "headings": [f"order {number + 1}" for number in range(len(comparison.orders))],
        "rows": orders.rows(comparison),
        "tasks": comparison.orders,
    }


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
                _over_time(len(run.tasks)) + ("; dashed: controls, never trained on." if scores.controls else "."),
            ),
        ]
    planned = len(run.recipe.get("tasks") or run.tasks)
    return {
        "name": name,
        "unfinished": f"unfinished: {len(run.tasks)} of {planned} tasks" if planned > len(run.tasks) else "",
        "results": run,
        "findings": sentences.run_summary(run),
        "figures": pictures,
        "metrics": tables.metric_rows(run),
        "costs": tables.cost_rows([run.costs]),
        "task_costs": _task_costs(run),
        **grids,
        "told": beside.told(run.primary, scores),
        "beside": beside.others(run),
        "others": {
            beside.told(title, run.scores[title]): _grids(run, title) for title in run.scores if title != run.primary
        },
        "stages": ["start", *run.tasks[: len(scores.matrix)]],
        "head": run.head if 0 < sum(map(len, run.head.values())) <= FEW_ROWS else {},
        "recipe": as_yaml(run.recipe),
    }


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
        known = of_controls(scores)
        changes = [signed(known[one].change, scores.unit) if one in known else MISSING for one in names]
        rows.append((name, run.label, str(run.seed), *values, *changes, seconds(run.costs.training_seconds)))
    headings = ["average", "forgetting", "newest task", *(f"{one} since the start" for one in names), "training"]
    return {"headings": headings, "rows": rows}


def as_yaml(value: object) -> str:
    """A value as YAML for people, its keys in their order."""
    return dump_yaml(value)


def _bound(text: str) -> str:
    """The same sentence, its numbers never parted from their units at the end of a line."""
    units = r"(?<=\d) (?=%|seed|order|points|[kMGT]?B\b)"
    return re.sub(rf"{units}| (?=[×±])|(?<=[×±]) (?=\d)", "\u00a0", text)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-")[:40] or "run"


def write_page(template: str, folder: Path, **values: Any) -> Path:
    """Renders with every value escaped, and publishes whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bound"] = _bound
    style = Markup((Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8"))
    page = environment.get_template(template).render(style=style, **values)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_text(path, page)
    return path
