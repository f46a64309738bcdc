"""`report.html`: one file that needs nothing else, and the same figures as PNG and SVG beside it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from stockpot.files import write_text
from stockpot.report import figures, sentences, tables
from stockpot.report.formatting import METRICS, begin, ranked, score, seconds, seeds
from stockpot.report.svg import inline
from stockpot.results import Comparison, Results

FEW_ROWS = 40
TESTED = ("average_accuracy", "forgetting", "newest_accuracy")


class _Gallery:
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
    gallery = _Gallery(folder / "figures")
    runs = []
    for index, (name, run) in enumerate(results):
        stem = "" if len(results) == 1 else f"{index + 1:02d}-{_slug(name)}-"
        runs.append(_run(name, run, gallery, stem))
    heading = results[0][0] if len(results) == 1 else f"{len(results)} runs"
    return _write("run.html.j2", folder, title=heading, runs=runs, overview=_overview(results))


def write_comparison_report(comparison: Comparison, cells: dict[str, list[Results]], folder: Path) -> Path:
    """The report of a comparison, whose finished runs `cells` are given by label: `folder/report.html`."""
    gallery = _Gallery(folder / "figures")
    percent = f"{100 * comparison.confidence:g} %"
    versus = [
        gallery.add(
            figures.methods(comparison, metric),
            f"methods-{metric.replace('_', '-')}",
            f"{begin(METRICS[metric][0])} of every method with its {percent} interval; "
            "the numbers are in the table of methods.",
            f"{begin(METRICS[metric][0])}. Large mark: mean over n seeds; bar: its {percent} interval; "
            "small dots: single seeds.",
        )
        for metric in TESTED
    ]
    versus.append(
        gallery.add(
            figures.stability_plasticity(comparison),
            "stability-plasticity",
            "Stability against plasticity, one mark a method; the numbers are in the tables.",
            f"Stability against plasticity; up and right is better. Bars: {percent} intervals over "
            f"{_counts(comparison)}. Methods whose forgetting is not defined (joint training) are left out.",
        )
    )
    stream = [
        gallery.add(
            figures.tasks_over_time(comparison, cells),
            "tasks-over-time",
            "Each task's score after every task, one panel a method.",
            "Each task's score over the stream: means over n seeds. The large mark is where the task was just learnt.",
        ),
        gallery.add(
            figures.mean_matrices(comparison, cells),
            "mean-matrices",
            "The mean score matrix of every method as heat maps.",
            "The mean matrix over n seeds: rows after learning a task, columns the task scored. Brighter is better; "
            "blank was not measured.",
        ),
    ]
    notes: dict[str, list[str]] = defaultdict(list)
    for label, runs in cells.items():
        for note in dict.fromkeys(note for run in runs for note in run.notes):
            notes[note].append(label)
    first = next((run for runs in cells.values() for run in runs), None)
    return _write(
        "comparison.html.j2",
        folder,
        title=comparison.name,
        comparison=comparison,
        findings=comparison.sentences or sentences.findings(comparison),
        seeds=_counts(comparison),
        percent=percent,
        rows=tables.comparison_rows(comparison),
        differences=[(begin(METRICS[m][0]), rows) for m in TESTED if (rows := tables.difference_rows(comparison, m))],
        labels=[label for label, _ in ranked(comparison)],
        cost_rows=tables.method_cost_rows(comparison),
        versus=versus,
        stream=stream,
        notes=notes,
        explanations=list(METRICS.values()),
        methods=_yaml({label: summary.method for label, summary in comparison.methods.items()}),
        recipe=_yaml(first.recipe) if first else "",
    )


def _counts(comparison: Comparison) -> str:
    """`"3 seeds"`, or `"2 to 3 seeds"` where some method has fewer."""
    counts = sorted({len(summary.cells) for summary in comparison.methods.values()})
    return seeds(counts[0]) if len(counts) == 1 else f"{counts[0]} to {seeds(counts[-1])}"


def _run(name: str, run: Results, gallery: _Gallery, stem: str) -> dict[str, Any]:
    scores = run.scores[run.primary]

    def written(values: list[float | None]) -> list[str]:
        return ["" if value is None else score(value, scores.unit) for value in values]

    pictures = []
    if scores.matrix:
        pictures = [
            gallery.add(
                figures.matrix(run),
                f"{stem}matrix",
                f"The matrix of {run.primary} as a heat map; the numbers are in the table below.",
                "Rows: after learning a task; columns: the task scored. Brighter is better; blank was not measured.",
            ),
            gallery.add(
                figures.over_time(run),
                f"{stem}tasks-over-time",
                f"Each task's {run.primary} over the stream; the numbers are in the table below.",
                "Each task's score over the stream. The large mark is where the task was just learnt"
                + ("; dashed: controls, never trained on." if scores.controls else "."),
            ),
        ]
    return {
        "name": name,
        "results": run,
        "findings": sentences.run_summary(run),
        "figures": pictures,
        "metrics": tables.metric_rows(run),
        "costs": tables.cost_rows([run.costs]),
        "task_costs": tables.cost_rows(run.task_costs),
        "scored": [("start", written(scores.initial)), *zip(run.tasks, map(written, scores.matrix), strict=False)],
        "controls": [(control, written(values)) for control, values in scores.controls.items()],
        "stages": ["start", *run.tasks[: len(scores.matrix)]],
        "head": run.head if 0 < sum(map(len, run.head.values())) <= FEW_ROWS else {},
        "recipe": _yaml(run.recipe),
    }


def _overview(results: list[tuple[str, Results]]) -> list[tuple[str, ...]]:
    """One row a run, where there are several."""
    rows = []
    for name, run in results if len(results) > 1 else ():
        m, unit = run.metrics, run.scores[run.primary].unit
        values = (score(value, unit) for value in (m.average_accuracy, m.forgetting, m.newest_accuracy))
        rows.append((name, run.label, str(run.seed), *values, seconds(run.costs.training_seconds)))
    return rows


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _bound(text: str) -> str:
    """The same sentence, its numbers never parted from their units at the end of a line."""
    return re.sub(r"(?<=\d) (?=%|seed|points|[kMGT]?B\b)", "\u00a0", text)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-")[:40] or "run"


def _write(template: str, folder: Path, **values: Any) -> Path:
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
