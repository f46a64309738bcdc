"""Figures of the past-versus-new front: all methods at once, and each before the others."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stockpot.methods import role_of
from stockpot.report.figures import FIGURE_WIDTH, FLOOR, Look, looks, short, styled
from stockpot.report.formatting import bytes_text, kept_kinds, reference
from stockpot.report.front_facts import controls, curves, place_of, reference_places, undominated
from stockpot.report.placement import PlotPoint, along, place_labels
from stockpot.report.tuning_section import number
from stockpot.results import Comparison, FrontPoint

FEW_LINES = 8  # methods, beyond which only those on the Pareto front are named, and each has a panel of its own
LARGEST_DISC = 500.0  # square points of the disc of the most bytes


def mark_area(own: float | None, plain: float | None) -> float:
    """The area of a mark, in square points: 30 at the time of plain fine-tuning, and in proportion to time."""
    return 30.0 * min(12.0, max(0.3, own / plain)) if own and plain else 30.0


def bytes_held(point: FrontPoint) -> float:
    """Bytes: what it holds while training beside plain training, and what it stores between tasks."""
    return (point.extra_memory_bytes.mean or 0.0) + (point.stored_bytes.mean or 0.0)


def most_bytes_held(comparison: Comparison) -> float:
    """The bytes of the largest disc."""
    return max((bytes_held(point) for line in curves(comparison).values() for point in line), default=0.0)


def _look(given: dict[str, Look], label: str) -> Look:
    return given.get(label, Look(FLOOR, "o"))


class _Marks:
    """How a method's points are drawn: a mark of its time over a pale disc of its bytes, filled on the Pareto front."""

    def __init__(self, comparison: Comparison) -> None:
        base = reference(comparison)
        self.plain = comparison.methods[base].training_seconds.mean if base is not None else None
        self.best = {id(point) for point in undominated(comparison)}
        self.most = most_bytes_held(comparison)

    def on_front(self, point: FrontPoint) -> bool:
        return id(point) in self.best

    def draw(self, axes: Axes, line: list[FrontPoint], look: Look) -> None:
        xs, ys = zip(*map(place_of, line), strict=True)
        axes.plot(xs, ys, color=look.color, linewidth=1, alpha=0.7, zorder=1)
        discs = [LARGEST_DISC * bytes_held(point) / self.most if self.most else 0.0 for point in line]
        axes.scatter(xs, ys, s=discs, color=look.color, alpha=0.15, linewidth=0, zorder=0.5)
        areas = [mark_area(point.training_seconds.mean, self.plain) for point in line]
        faces = [look.color if self.on_front(point) else "none" for point in line]
        axes.scatter(
            xs, ys, s=areas, marker=look.marker, facecolor=faces, edgecolor=look.color, linewidth=1.2, zorder=3
        )  # fmt: skip


@styled
def front_figure(comparison: Comparison) -> Figure:
    """Earlier tasks against the newest, a line a method; beside it what each stores, and a control's change."""
    lines, given, marks = curves(comparison), looks(comparison), _Marks(comparison)
    drawing = Figure(figsize=(2 * FIGURE_WIDTH, 4.6 + 0.12 * max(0, len(lines) - 6)), layout="constrained")
    untrained = controls(comparison)[:1]  # the others stand in the sentences
    axes, beside, *more = drawing.subplots(1, 2 + len(untrained), width_ratios=(3, 1.2, 0.8)[: 2 + len(untrained)])
    points: list[PlotPoint] = []
    names: list[str] = []
    colors: list[str] = []
    for label, line in lines.items():
        look = _look(given, label)
        marks.draw(axes, line, look)
        points += [place_of(point) for point in line]
        names += _names(label, line, marks, few=len(lines) <= FEW_LINES)
        colors += [look.color] * len(line)
    for label, place in _floor_and_ceiling(comparison).items():
        axes.plot(*place, given[label].marker, color=given[label].color, markersize=10, markeredgewidth=2)
        points.append(place)
        names.append(short(label))
        colors.append(given[label].color)
    _stairs(axes, comparison)
    axes.set(xlabel=f"newest task: {comparison.primary}, just learnt", ylabel=f"earlier tasks: {comparison.primary}")
    axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    _best_up_and_right(axes, comparison)
    _bytes(beside, lines, given)
    for panel, name in zip(more, untrained, strict=True):
        _control(panel, comparison, name, marks, given)
    place_labels(axes, points, names, colors, along([[place_of(point) for point in line] for line in lines.values()]))
    return drawing


def _names(label: str, line: list[FrontPoint], marks: _Marks, few: bool) -> list[str]:
    """The ends of a line; of many lines only those on the Pareto front, at their strongest point there."""
    if few:
        first = f"{short(label)} {line[0].key} {number(line[0].value)}"
        last = number(line[-1].value) if len(line) > 1 else ""
        return [first, *[""] * (len(line) - 2), *([last] if len(line) > 1 else [])]
    strongest = max((k for k, point in enumerate(line) if marks.on_front(point)), default=None)
    return [f"{short(label)} {number(point.value)}" if k == strongest else "" for k, point in enumerate(line)]


@styled
def front_panels(comparison: Comparison) -> Figure:
    """A panel a method: its own line in colour, its ends named, before the lines of all the others in grey."""
    lines, given, marks = curves(comparison), looks(comparison), _Marks(comparison)
    columns = 4
    rows = -(-len(lines) // columns)
    drawing = Figure(figsize=(2 * FIGURE_WIDTH, 0.5 + 1.7 * rows), layout="constrained")
    grid = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for unused in grid[len(lines) :]:
        unused.set_visible(False)
    for axes, (label, line) in zip(grid, lines.items(), strict=False):
        look = _look(given, label)
        others = [[*map(place_of, other)] for other in lines.values()]
        axes.add_collection(LineCollection(others, color=FLOOR, linewidth=0.6, alpha=0.35, zorder=0))
        _stairs(axes, comparison)
        marks.draw(axes, line, look)
        for name, place in _floor_and_ceiling(comparison).items():
            axes.plot(*place, given[name].marker, color=given[name].color, markersize=6, markeredgewidth=1.5)
        for point, below in ((line[0], True), (line[-1], False))[: len(line)]:
            axes.annotate(
                number(point.value), place_of(point), (0, -7 if below else 7), textcoords="offset points", fontsize=7,
                ha="center", va="top" if below else "bottom",
            )  # fmt: skip
        axes.set_title(f"{short(label, 20)} ({line[0].key})", loc="left", color=look.color)
        axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    for lowest in grid[max(0, len(lines) - columns) : len(lines)]:
        lowest.tick_params(labelbottom=True)
    _best_up_and_right(grid[0], comparison)
    drawing.supxlabel(f"newest task: {comparison.primary}, just learnt", fontsize=9)
    drawing.supylabel(f"earlier tasks: {comparison.primary}", fontsize=9)
    return drawing


def _floor_and_ceiling(comparison: Comparison) -> dict[str, PlotPoint]:
    labels = [label for label, s in comparison.methods.items() if role_of(s.method) != "rival"]
    return reference_places(comparison, labels)


def _stairs(axes: Axes, comparison: Comparison) -> None:
    """Dashes along the Pareto front: what lies below and left of them is beaten."""
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


def _bytes(axes: Axes, lines: dict[str, list[FrontPoint]], given: dict[str, Look]) -> None:
    """A row a method: from least to most over its strengths, of what it holds while training and stores between.

    What is stored stands beside it: data, models, statistics.
    """
    largest = 0.0
    for y, (label, line) in enumerate(lines.items()):
        look = _look(given, label)
        for field, shift, face in (("extra_memory_bytes", -0.18, "none"), ("stored_bytes", 0.12, look.color)):
            values = [float(getattr(point, field).mean or 0) for point in line]
            largest = max(largest, *values)
            ends = sorted({min(values), max(values)})
            if len(ends) > 1:
                axes.plot(ends, [y + shift] * 2, color=look.color, linewidth=1.2)
            axes.scatter(ends, [y + shift] * len(ends), s=16, facecolor=face, edgecolor=look.color, zorder=3)
        kinds = dict.fromkeys(kind for point in line for kind in kept_kinds(point))
        most = max(float(point.stored_bytes.mean or 0) for point in line)
        if kinds:
            axes.annotate(
                ", ".join(kinds), (most, y + 0.12), (5, 0), textcoords="offset points", fontsize=7, color=FLOOR,
                va="center",
            )  # fmt: skip
    axes.set_xscale("symlog", linthresh=10_000, linscale=1)
    ticks = [0.0, *(10.0**k for k in (5, 7, 9, 11) if 10.0**k <= 10 * largest)]
    axes.set_xticks(ticks, [bytes_text(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-2500, 100 * max(largest, 10_000))  # room for the names of what is stored
    _rows(axes, lines, given)
    axes.set_xlabel("memory (hollow),\nstored (filled)")


def _control(axes: Axes, comparison: Comparison, name: str, marks: _Marks, given: dict[str, Look]) -> None:
    """A row a method, as in the panel before: a control's change at every strength, filled on the Pareto front."""
    lines, base = curves(comparison), reference(comparison)
    plain = comparison.methods[base].controls.get(name) if base is not None else None
    axes.axvline(0, color=FLOOR, linewidth=0.9)
    if base is not None and plain is not None and plain.change.mean is not None:
        axes.axvline(plain.change.mean, color=_look(given, base).color, linewidth=1, linestyle=(0, (3, 3)))
    for y, (label, line) in enumerate(lines.items()):
        look = _look(given, label)
        ordered = sorted(line, key=marks.on_front)  # of equal changes, that of a point on the front is drawn
        filled = {point.controls[name].mean or 0.0: marks.on_front(point) for point in ordered}
        faces = [look.color if on_front else "none" for on_front in filled.values()]
        if len(filled) > 1:
            axes.plot([min(filled), max(filled)], [y, y], color=look.color, linewidth=1.2)
        axes.scatter(list(filled), [y] * len(filled), s=20, facecolor=faces, edgecolor=look.color, zorder=3)
    _in_rows(axes, len(lines))
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel(f"{short(name, 18)}: change\nsince the start\n(below 0 is worse)")


def _rows(axes: Axes, lines: dict[str, list[FrontPoint]], given: dict[str, Look]) -> None:
    """The methods' names and marks down the left side."""
    axes.set_yticks(range(len(lines)), [short(label, 18) for label in lines])
    for y, (tick, label) in enumerate(zip(axes.get_yticklabels(), lines, strict=True)):
        look = _look(given, label)
        tick.set_color(look.color)
        axes.plot(-0.05, y, look.marker, color=look.color, transform=axes.get_yaxis_transform(), clip_on=False)
    axes.tick_params(axis="y", length=0, pad=14)
    _in_rows(axes, len(lines))


def _in_rows(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FLOOR, alpha=0.25, linewidth=0.6)
