"""`report.html` of a comparison: one file that needs nothing else, and the same figures as PNG and SVG beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stockpot.report import (
    figures,
    findings,
    front_captions,
    front_facts,
    front_figures,
    orders,
    other_scores,
    stream_figures,
    tables,
    tuning_section,
)
from stockpot.report.answers import answer_questions
from stockpot.report.formatting import (
    METRIC_TITLES,
    design_of_all,
    leading,
    metric_heading,
    metric_title,
    over_runs,
    seed_count,
)
from stockpot.report.html import Gallery, write_page
from stockpot.report.run_page import over_time_caption
from stockpot.results import Comparison, Results
from stockpot.yaml_text import dump_yaml

FEW_METHODS = 8  # beyond which tables and matrices show the best, and fold the rest away
BEST = 4


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
            figures.methods_figure(comparison, metric),
            f"methods-{metric.replace('_', '-')}",
            f"{metric_heading(metric, comparison.primary)} of every method with its {percent} interval; "
            "the numbers are in the table of methods.",
            f"{metric_heading(metric, comparison.primary)}. Large mark: mean; n: seeds, or orders where there are "
            f"several; bar: its {percent} interval, cut at the frame; "
            "small dots: single runs.",
        )
        for metric in findings.TESTED
    ]
    versus.append(
        gallery.add(
            figures.stability_plasticity(comparison),
            "stability-plasticity",
            "Stability against plasticity, one mark a method; the numbers are in the tables.",
            "Stability against plasticity; up and right is better. "
            + ("" if len(comparison.methods) > figures.MANY_METHODS else f"Bars: {percent} intervals. ")
            + f"Means over {design_of_all(comparison)}. "
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
        answers=answer_questions(comparison),
        runs=design_of_all(comparison),
        percent=percent,
        over=over_runs(comparison),
        doubts=doubts,
        rows=rows,
        few_rows=[row for row in rows if row.label in few],
        differences=[
            (metric_heading(m, comparison.primary), found)
            for m in findings.TESTED
            if (found := tables.difference_rows(comparison, m))
        ],
        beside=other_scores.other_scores_of_comparison(comparison, cells),
        costs=tables.method_costs(comparison),
        tuning=_tuning(comparison, gallery),
        front=_front(comparison, gallery),
        orders=_orders(comparison, gallery),
        versus=versus,
        stream=_stream(comparison, shown, gallery),
        more_matrices=[_matrices(comparison, folded, gallery, "-of-the-others")] if folded else [],
        notes=notes,
        explanations=[(metric_title(key, comparison.primary), text) for key, (_, text) in METRIC_TITLES.items()],
        methods=dump_yaml({label: summary.method for label, summary in comparison.methods.items()}),
        recipe=dump_yaml(first.recipe) if first else "",
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
        f"{over_time_caption(len(comparison.tasks))}; means over n seeds{_where(comparison)}.",
    )
    return [lines, _matrices(comparison, cells, gallery)]


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
    if tuning_section.tuned(comparison):
        caption = "Each trial's score over the parameter searched, or by its number; the large mark was chosen. "
        caption += f"Means over {seed_count(len(comparison.tuning.seeds))}."
        alt = "The score of every trial, one panel a method; the best are in the table."
        pictures = [gallery.add(tuning_section.tuning_figure(comparison), "tuning", alt, caption)]
    return {
        "sentences": tuning_section.tuning_sentences(comparison),
        "rows": tuning_section.tuning_rows(comparison),
        "figures": pictures,
    }


def _front(comparison: Comparison, gallery: Gallery) -> dict[str, Any] | None:
    lines = front_facts.curves(comparison)
    if not lines:
        return None
    alt = (
        f"{metric_heading('past_accuracy', comparison.primary)} against the newest, one line a method by its strengths."
    )
    pictures = [gallery.add(front_figures.front_figure(comparison), "front", alt, front_captions.of_all(comparison))]
    if len(lines) > front_figures.FEW_LINES:
        alt, caption = "The same, a panel a method.", front_captions.of_each(comparison)
        pictures.append(gallery.add(front_figures.front_panels(comparison), "front-each", alt, caption))
    return {"sentences": front_facts.front_sentences(comparison), "figures": pictures}


def _orders(comparison: Comparison, gallery: Gallery) -> dict[str, Any] | None:
    if len(comparison.orders) < 2:
        return None
    average = metric_heading("average_accuracy", comparison.primary)
    over = f"means over the seeds of the order ({design_of_all(comparison)})"
    caption = f"{average} in each order, by its number: {over}."
    alt = f"{average} of every method in every order; the numbers are in the table."
    return {
        "sentences": orders.order_sentences(comparison),
        "figures": [gallery.add(orders.orders_figure(comparison), "orders", alt, caption)],
        "headings": [f"order {number + 1}" for number in range(len(comparison.orders))],
        "rows": orders.order_rows(comparison),
        "tasks": comparison.orders,
    }
