"""Figures of the past-versus-new front: all methods at once, and each in front of the others."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from stockpot.methods import role_of
from stockpot.report.figures import FIGURE_WIDTH, FLOOR, Look, legend_below, looks, short, styled
from stockpot.report.formatting import plain_number
from stockpot.report.front_facts import FEW_LINES, curves, place_of, reference_places, undominated
from stockpot.results import Comparison, FrontPoint


@styled
def front_figure(comparison: Comparison) -> Figure:
    """Earlier tasks against the newest, a line for each method through its strengths."""
    lines, method_looks = curves(comparison), looks(comparison)
    drawing = Figure(figsize=(1.6 * FIGURE_WIDTH, 5.2 + 0.05 * len(lines)), layout="constrained")
    axes = drawing.add_subplot()
    for label, line in lines.items():
        look = _look(method_looks, label)
        _draw(axes, comparison, line, look)
        axes.plot([], [], marker=look.marker, color=look.color, label=f"{short(label, 20)} ({line[0].key})")
        if len(lines) <= FEW_LINES:
            _label_ends(axes, line)
    _draw_references(axes, comparison, method_looks, 10)
    _draw_stairs(axes, comparison)
    axes.set(xlabel=f"newest task: {comparison.primary}, just learnt", ylabel=f"earlier tasks: {comparison.primary}")
    axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    _best_up_and_right(axes, comparison)
    legend_below(drawing, axes, 4)
    return drawing


@styled
def front_panels(comparison: Comparison) -> Figure:
    """A panel for each method: its own line in colour, the values at its ends, the lines of all others in grey."""
    lines, method_looks = curves(comparison), looks(comparison)
    columns = 4
    rows = -(-len(lines) // columns)
    drawing = Figure(figsize=(2 * FIGURE_WIDTH, 0.5 + 1.7 * rows), layout="constrained")
    panels = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for unused in panels[len(lines) :]:
        unused.set_visible(False)
    places = [[*map(place_of, line)] for line in lines.values()]
    for axes, (label, line) in zip(panels, lines.items(), strict=False):
        look = _look(method_looks, label)
        axes.add_collection(LineCollection(places, color=FLOOR, linewidth=0.6, alpha=0.35, zorder=0))
        _draw_stairs(axes, comparison)
        _draw(axes, comparison, line, look)
        _draw_references(axes, comparison, method_looks, 6)
        _label_ends(axes, line)
        axes.set_title(f"{short(label, 20)} ({line[0].key})", loc="left", color=look.color)
        axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    for lowest in panels[max(0, len(lines) - columns) : len(lines)]:
        lowest.tick_params(labelbottom=True)
    _best_up_and_right(panels[0], comparison)
    drawing.supxlabel(f"newest task: {comparison.primary}, just learnt", fontsize=9)
    drawing.supylabel(f"earlier tasks: {comparison.primary}", fontsize=9)
    return drawing


def _look(method_looks: dict[str, Look], label: str) -> Look:
    return method_looks.get(label, Look(FLOOR, "o"))


def _draw(axes: Axes, comparison: Comparison, line: list[FrontPoint], look: Look) -> None:
    """A line through a method's points; marks are filled on the Pareto front."""
    front = {id(point) for point in undominated(comparison)}
    faces = [look.color if id(point) in front else "none" for point in line]
    xs, ys = zip(*map(place_of, line), strict=True)
    axes.plot(xs, ys, color=look.color, linewidth=1, alpha=0.7, zorder=1)
    axes.scatter(xs, ys, s=30, marker=look.marker, facecolor=faces, edgecolor=look.color, linewidth=1.2, zorder=3)


def _label_ends(axes: Axes, line: list[FrontPoint]) -> None:
    """The lowest value below its point, the highest above."""
    for point, below in ((line[0], True), (line[-1], False))[: len(line)]:
        axes.annotate(
            plain_number(point.value), place_of(point), (0, -7 if below else 7), textcoords="offset points",
            fontsize=7, ha="center", va="top" if below else "bottom",
        )  # fmt: skip


def _draw_references(axes: Axes, comparison: Comparison, method_looks: dict[str, Look], size: float) -> None:
    references = [label for label, summary in comparison.methods.items() if role_of(summary.method) != "rival"]
    for label, place in reference_places(comparison, references).items():
        look = method_looks[label]
        axes.plot(
            *place, look.marker, color=look.color, markersize=size, markeredgewidth=size / 5, linestyle="none",
            label=short(label, 20),
        )  # fmt: skip


def _draw_stairs(axes: Axes, comparison: Comparison) -> None:
    """Dashes along the Pareto front: points below and to the left of them are dominated."""
    front = sorted(map(place_of, undominated(comparison)))
    if front:
        steps = "steps-pre" if comparison.higher_is_better else "steps-post"
        dashes: dict[str, Any] = {"color": FLOOR, "linestyle": (0, (3, 3)), "linewidth": 0.9, "drawstyle": steps}
        axes.plot(*zip(*front, strict=True), zorder=0, **dashes)


def _best_up_and_right(axes: Axes, comparison: Comparison) -> None:
    axes.margins(0.1)
    if not comparison.higher_is_better:
        axes.invert_xaxis()
        axes.invert_yaxis()
