"""The page of a sweep over a run's checkpoints: what each method keeps against what it learns, over its strength."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stockpot.evaluation.metrics import newest_accuracy, past_accuracy
from stockpot.evaluation.pareto import ScorePoint
from stockpot.report.figures import CEILING, FIGURE_WIDTH, FLOOR, INK, MARKERS, PALETTE, Look, legend_below, styled
from stockpot.report.formatting import METRIC_TITLES, metric_heading, metric_title, opening
from stockpot.report.html import Gallery, write_page
from stockpot.report.tables import Grid
from stockpot.report.whatif_tables import (
    PLAIN,
    START,
    SYMBOLS,
    WHATIF_HEADINGS,
    by_rank,
    is_exact,
    point_rows,
    valued,
    whatif_rows,
)
from stockpot.results import WhatIf, WhatIfMethod
from stockpot.yaml_text import dump_yaml

POST_HOC_DASHES = (0, (4, 2))  # dashed


def write_whatif_report(whatif: WhatIf, folder: Path) -> Path:
    """Writes `folder/report.html` and `folder/figures/`; returns the path of the page."""
    gallery = Gallery(folder / "figures")
    last = whatif.tasks[-1]
    pictures = [
        gallery.add(
            tradeoff_figure(whatif),
            "past-against-newest",
            f"{metric_heading('past_accuracy', whatif.primary)} against the newest one, one curve for each method; "
            "the numbers are in the tables.",
            f"After the last task: mean {whatif.primary} on earlier tasks against {whatif.primary} on the newest, "
            f"{last}. Up and right is better. Curves run along the strength; ring: the knee; star: the best average; "
            "dashed: post-hoc, no real run gives these scores.",
        ),
        gallery.add(
            averages_figure(whatif),
            "average-over-strength",
            f"{metric_heading('average_accuracy', whatif.primary)} over the strength, one curve for each method; "
            "the numbers are in the tables.",
            f"Average {whatif.primary} after the last task over the strength. Star: the best value; ring: the knee; "
            "grey: plain fine-tuning; dotted: a method without a strength.",
        ),
    ]
    changes = [f"{control} since the start" for control in whatif.plain.controls]
    rows = [(row.name, [*row.values, *row.controls, row.real]) for row in whatif_rows(whatif)]
    caption = f"After the last task, {last}: {whatif.primary}, 1 seed, best average first"
    headings = ["average", "earlier tasks", "newest task", "forgetting", *changes, "a real run"]
    points = []
    for name, method in by_rank(whatif):
        symbol = SYMBOLS.get(method.key or "", "")
        grid = Grid(f"{opening(name)} after the last task", headings, point_rows(method, whatif), symbol)
        points.append((opening(name), grid, dump_yaml(method.method)))
    return write_page(
        "whatif.html.j2",
        folder,
        title=f"What if: {whatif.run}",
        whatif=whatif,
        pictures=pictures,
        table=Grid(caption, [*WHATIF_HEADINGS, *changes, "a real run"], rows),
        points=points,
        explanations=[
            (metric_title(key, whatif.primary), METRIC_TITLES[key][1])
            for key in ("average_accuracy", "past_accuracy", "newest_accuracy", "forgetting")
        ],
    )


def sweep_looks(whatif: WhatIf) -> dict[str, Look]:
    """The colour and marker of each method, by its position in the file."""
    return dict(zip(whatif.methods, map(Look, cycle(PALETTE), cycle(MARKERS)), strict=False))


@styled
def tradeoff_figure(whatif: WhatIf) -> Figure:
    """Earlier tasks against the newest, after the last task: a curve for each method along its strength."""
    figure = Figure(figsize=(FIGURE_WIDTH, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, look in sweep_looks(whatif).items():
        method = whatif.methods[name]
        curve = [_place(point.metrics.newest_accuracy, point.metrics.past_accuracy) for point in method.points]
        knee = "" if method.knee is None else f", knee {valued(method, method.points[method.knee])}"
        _draw_curve(axes, curve, method, look, opening(name), knee)
    plain = _place(whatif.plain_metrics.newest_accuracy, whatif.plain_metrics.past_accuracy)
    rows_of_start = [whatif.start] * len(whatif.start)
    start = _place(newest_accuracy(rows_of_start), past_accuracy(rows_of_start))
    for place, name, color, marker in ((plain, PLAIN, FLOOR, "s"), (start, START, CEILING, "d")):
        axes.plot(*place, marker=marker, color=color, markersize=7, linestyle="none", zorder=4, label=name)
    axes.set(xlabel=f"{whatif.primary} on the newest task", ylabel=f"mean {whatif.primary} on earlier tasks")
    axes.margins(0.12)
    if not whatif.plain.higher_is_better:
        axes.invert_xaxis()
        axes.invert_yaxis()
    axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    legend_below(figure, axes, 2)
    return figure


@styled
def averages_figure(whatif: WhatIf) -> Figure:
    """The average after the last task over the strength, a curve for each method."""
    figure = Figure(figsize=(FIGURE_WIDTH, 4.4), layout="constrained")
    axes = figure.add_subplot()
    if whatif.plain_metrics.average_accuracy is not None:
        axes.axhline(whatif.plain_metrics.average_accuracy, color=FLOOR, linewidth=1.2, label=PLAIN)
    for name, look in sweep_looks(whatif).items():
        method = whatif.methods[name]
        curve = [_place(point.value or 0.0, point.metrics.average_accuracy) for point in method.points]
        if method.key is None:
            axes.axhline(curve[0][1], color=look.color, linewidth=1.3, linestyle=":", label=opening(name))
        else:
            _draw_curve(axes, curve, method, look, f"{opening(name)} ({SYMBOLS.get(method.key, method.key)})")
    better = "higher" if whatif.plain.higher_is_better else "lower"
    axes.set(xlabel="strength", ylabel=f"average {whatif.primary} ({better} is better)")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    legend_below(figure, axes, 2)
    return figure


def _place(x: float | None, y: float | None) -> ScorePoint:
    assert x is not None and y is not None, "every task was evaluated"
    return x, y


def _draw_curve(
    axes: Axes, curve: list[ScorePoint], method: WhatIfMethod, look: Look, label: str, knee: str = ""
) -> None:
    """A method's points in order of strength: a star at the best value, a ring at the knee; dashed if post-hoc."""
    post_hoc = not all(map(is_exact, method.points))
    style: dict[str, Any] = {"linewidth": 1.3, "linestyle": POST_HOC_DASHES if post_hoc else "-"}
    size = 3.5 if len(curve) > 1 else 6.5
    label += f"{', post-hoc' if post_hoc else ''}{knee}"
    axes.plot(*zip(*curve, strict=True), color=look.color, marker=look.marker, markersize=size, label=label, **style)
    star: dict[str, Any] = {"marker": "*", "markersize": 11, "markeredgecolor": INK, "markeredgewidth": 0.6}
    axes.plot(*curve[method.best], color=look.color, linestyle="none", zorder=5, **star)
    if method.knee is not None:
        ring: dict[str, Any] = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.4}
        axes.plot(*curve[method.knee], color=look.color, linestyle="none", zorder=3, **ring)
