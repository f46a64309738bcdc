"""`report.html` of a comparison: one file that loads nothing, and the same figures as PNG and SVG beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stockpot.printing import counted
from stockpot.report import figures, front_facts, front_figures, orders, stream_figures, tuning_section
from stockpot.report.answers import answer_questions, methods_overview
from stockpot.report.beta_figures import beta_caption, betas_by_depth
from stockpot.report.beta_layers import HOW_TO_READ, WHAT_BETA_IS, beta_note, comparison_grid
from stockpot.report.charts import short
from stockpot.report.findings import TESTED, findings
from stockpot.report.formatting import METRIC_TITLES, capitalized, metric_heading, metric_title
from stockpot.report.html import Gallery, write_page
from stockpot.report.lost_classes import lost_under_methods
from stockpot.report.method_costs import method_costs
from stockpot.report.other_scores import other_scores_of_comparison
from stockpot.report.ranking import design_of_all, leading, over_runs, ranked
from stockpot.report.run_page import SENTENCES, over_time_caption
from stockpot.report.tables import Grid, method_name
from stockpot.results import Comparison, Results
from stockpot.yaml_text import dump_yaml

MOST_METHODS, LEADING = 12, 8  # in the first picture and table: all of twelve, or the best eight
FEW_METHODS, BEST = 8, 4  # task by task: all of eight, or the best four; the rest are folded away


def write_comparison_report(
    comparison: Comparison, cells: dict[str, list[Results]], folder: Path, doubts: Sequence[str] = (), pdf: bool = False
) -> Path:
    """Writes the report of a comparison.

    Args:
        comparison: What to show.
        cells: Label → its finished runs.
        folder: Where `report.html` and `figures/` are written.
        doubts: What a reader must know of the files that the comparison was read from.
        pdf: Whether the figures are written as PDF too.

    Returns:
        The path of `report.html`.
    """
    gallery = Gallery(folder / "figures", pdf)
    shown = leading(comparison, LEADING if len(comparison.methods) > MOST_METHODS else MOST_METHODS)
    names = {label: method_name(label, summary) for label, summary in comparison.methods.items()}
    few = leading(comparison, BEST if len(comparison.methods) > FEW_METHODS else FEW_METHODS)
    first_order = _first_order(comparison, cells)
    rest = {label: runs for label, runs in first_order.items() if label not in few}
    costs, over = method_costs(comparison), over_runs(comparison)
    first = next((run for runs in cells.values() for run in runs), None)
    facts = comparison.sentences or findings(comparison)
    overview = methods_overview(comparison)
    *answers, real = answer_questions(comparison)
    answers.append(real._replace(facts=facts[SENTENCES:]))
    return write_page(
        "comparison.html.j2",
        folder,
        gallery,
        title=comparison.name,
        comparison=comparison,
        names=names,
        design=design_of_all(comparison),
        doubts=doubts,
        facts=facts[:SENTENCES],
        lead=[_methods(comparison, gallery, "average_accuracy", shown)],
        overview=_only(overview, {names[label] for label in shown}),
        whole_overview=overview if len(shown) < len(names) else None,
        answers=answers,
        versus=_versus(comparison, gallery, whole=len(shown) < len(names)),
        front=_front(comparison, gallery),
        orders=_orders(comparison),
        stream=_stream(comparison, {label: runs for label, runs in first_order.items() if label in few}, gallery),
        more_matrices=_more_matrices(comparison, rest, gallery),
        betas=_betas(comparison, first_order, few, gallery),
        other_scores=[
            grid._replace(caption=f"{grid.caption}; {over}") for grid in other_scores_of_comparison(comparison, cells)
        ],
        lost_classes=lost_under_methods(comparison, cells, shown),
        costs=Grid(f"{capitalized(over)}; wall-clock time unless it says processor", *costs),
        tuning=_tuning(comparison, gallery),
        notes=_notes(cells),
        explanations=[(metric_title(key, comparison.primary), text) for key, (_, text) in METRIC_TITLES.items()],
        methods=dump_yaml({label: summary.method for label, summary in comparison.methods.items()}),
        recipe=dump_yaml(first.recipe) if first else "",
    )


def _only(grid: Grid, names: set[str]) -> Grid:
    """The rows of these names."""
    rows = [row for row in grid.rows if row[0] in names]
    fewer = f"The best of {len(grid.rows)} methods, with floor and ceiling. " if len(rows) < len(grid.rows) else ""
    return grid._replace(caption=fewer + grid.caption, rows=rows)


def _notes(cells: dict[str, list[Results]]) -> dict[str, list[str]]:
    """Note → the labels of the methods whose runs have it; without those on β, which has a section."""
    notes: dict[str, list[str]] = {}
    for label, runs in cells.items():
        shown = (note for run in runs for note in run.notes if note != beta_note(run.tasks, run.betas))
        for note in dict.fromkeys(shown):
            notes.setdefault(note, []).append(label)
    return notes


def _methods(
    comparison: Comparison, gallery: Gallery, metric: str, labels: Sequence[str] | None = None, ending: str = ""
) -> dict[str, Any]:
    """One metric of the methods; with `labels` as the picture that the page begins with."""
    percent = f"{100 * comparison.confidence:g} %"
    n = "orders" if len(comparison.orders) > 1 else "seeds"
    heading = metric_heading(metric, comparison.primary)
    fewer = labels is not None and len(labels) < len(comparison.methods)
    of = f" of the best of {len(comparison.methods)} methods, with floor and ceiling" if fewer else ""
    alt = f"{heading} of every method with its {percent} interval; the numbers are in the tables."
    caption = f"{heading}{of}. Large mark: mean; n: {n}; bar: {percent} interval, cut at the frame; dots: single runs."
    figure = figures.methods_figure(comparison, metric, labels, wide=labels is not None)
    return gallery.add(figure, f"methods-{metric.replace('_', '-')}{ending}", alt, caption)


def _versus(comparison: Comparison, gallery: Gallery, whole: bool) -> list[dict[str, Any]]:
    """The methods against each other in the metrics that are tested, and stability against plasticity."""
    pictures = [_methods(comparison, gallery, metric) for metric in TESTED[1:]]
    if whole:
        pictures.insert(0, _methods(comparison, gallery, TESTED[0], ending="-of-all"))
    alt = "Stability against plasticity, one mark for each method; the numbers are in the tables above."
    caption = (
        f"Stability against plasticity; up and right is better. Means over {design_of_all(comparison)}. Methods "
        "whose forgetting is not defined (joint training) are left out."
    )
    pictures.append(gallery.add(figures.stability_plasticity(comparison), "stability-plasticity", alt, caption))
    return pictures


def _more_matrices(comparison: Comparison, cells: dict[str, list[Results]], gallery: Gallery) -> list[dict[str, Any]]:
    """The matrices of the other methods, in pictures of a dozen."""
    labels = [label for label, _ in ranked(comparison) if cells.get(label)]
    parts = [labels[k : k + MOST_METHODS] for k in range(0, len(labels), MOST_METHODS)]
    return [
        _matrices(comparison, {label: cells[label] for label in part}, gallery, f"-of-the-others{f'-{k}' if k else ''}")
        for k, part in enumerate(parts)
    ]


def _first_order(comparison: Comparison, cells: dict[str, list[Results]]) -> dict[str, list[Results]]:
    """The runs of the first order alone: in the others, tasks are at other positions."""
    if len(comparison.orders) < 2:
        return cells
    first = {label: [run for run in runs if run.tasks == comparison.orders[0]] for label, runs in cells.items()}
    return {label: runs for label, runs in first.items() if runs}


def _where(comparison: Comparison) -> str:
    return ", in the first order of the tasks only" if len(comparison.orders) > 1 else ""


def _stream(comparison: Comparison, cells: dict[str, list[Results]], gallery: Gallery) -> list[dict[str, Any]]:
    """Trajectories and matrices of the methods in `cells`."""
    if not cells:
        return []
    lines = gallery.add(
        stream_figures.tasks_over_time(comparison, cells),
        "tasks-over-time",
        "Each task's score after every task, one panel for each method.",
        f"{over_time_caption(len(comparison.tasks))}; means over n seeds{_where(comparison)}.",
    )
    return [lines, _matrices(comparison, cells, gallery)]


def _matrices(
    comparison: Comparison, cells: dict[str, list[Results]], gallery: Gallery, ending: str = ""
) -> dict[str, Any]:
    return gallery.add(
        stream_figures.mean_matrices(comparison, cells),
        f"mean-matrices{ending}",
        "The mean score matrices as heat maps, one for each method.",
        f"The mean matrix over n seeds{_where(comparison)}. Rows: after learning a task; columns: the task scored. "
        "Brighter is better; blank was not measured.",
    )


def _betas(
    comparison: Comparison, cells: dict[str, list[Results]], few: Sequence[str], gallery: Gallery
) -> dict[str, Any] | None:
    """β of the methods that chose it for each weight; drawn of `few`, and of the others folded away."""
    over = "single runs, so no intervals"
    if any(len(runs) > 1 for runs in cells.values()):
        over = f"means ± half the {100 * comparison.confidence:g} % interval over the seeds{_where(comparison)}"
    table = comparison_grid(cells, comparison.tasks, over)
    if table is None:
        return None
    pictures: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    chosen = {label: [run for run in runs if any(run.betas)] for label, runs in cells.items()}
    for number, (label, runs) in enumerate((label, runs) for label, runs in chosen.items() if runs):
        alt = f"β through the depth of the model, by task, with {label}; its means are in the table below."
        figure = betas_by_depth(runs, f"{short(label, 30)} (n = {len(runs)})")
        pictures[label in few].append(
            gallery.add(figure, f"betas-{number + 1}", alt, beta_caption(runs, _where(comparison)))
        )
    texts = {"sentence": WHAT_BETA_IS, "reading": HOW_TO_READ}
    return {**texts, "figures": pictures[True], "more": pictures[False], "table": table}


def _tuning(comparison: Comparison, gallery: Gallery) -> dict[str, Any] | None:
    if comparison.tuning is None:
        return None
    pictures = []
    if labels := tuning_section.tuned(comparison):
        best = f"Of the best {tuning_section.MOST_TUNED} methods: e" if len(labels) > tuning_section.MOST_TUNED else "E"
        caption = (
            f"{best}ach trial's score over the parameter searched, or over its number; the large mark was chosen. "
        )
        caption += f"Means over {counted(len(comparison.tuning.seeds), 'seed')}."
        alt = "The score of every trial, one panel for each method; the best are in the table."
        pictures = [gallery.add(tuning_section.tuning_figure(comparison), "tuning", alt, caption)]
    table = tuning_section.tuning_grid(comparison)
    return {"facts": tuning_section.tuning_facts(comparison), "table": table, "figures": pictures}


def _front(comparison: Comparison, gallery: Gallery) -> dict[str, Any] | None:
    lines = front_facts.curves(comparison)
    if not lines:
        return None
    alt = f"{metric_heading('past_accuracy', comparison.primary)} against the newest, one line for each method."
    caption = front_facts.front_caption(comparison)
    pictures = [gallery.add(front_figures.front_figure(comparison), "front", alt, caption)]
    if front_facts.FEW_LINES < len(lines) <= front_facts.MOST_LINES:
        alt = "The same, one panel for each method."
        caption = "Each method in front of all others, the values at its ends labelled."
        pictures.append(gallery.add(front_figures.front_panels(comparison), "front-each", alt, caption))
    table = front_facts.front_grid(comparison)
    on_front = table._replace(
        caption="The points on the Pareto front", rows=[row for row in table.rows if row[1][0] == front_facts.ON_FRONT]
    )
    facts = front_facts.front_facts(comparison)
    return {"facts": facts, "on_front": on_front, "table": table, "figures": pictures}


def _orders(comparison: Comparison) -> dict[str, Any] | None:
    if len(comparison.orders) < 2:
        return None
    facts, table = orders.order_facts(comparison), orders.order_grid(comparison)
    return {"facts": facts, "table": table, "tasks": comparison.orders}
