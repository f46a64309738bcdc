"""The past-versus-new front: every method over its strength, and what it costs there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stockpot.report.figures import FLOOR, WIDTH, Look, looks, short, styled
from stockpot.report.formatting import listing, reference, role, runs, size, title
from stockpot.report.placement import place_labels
from stockpot.report.tuning import number
from stockpot.results import Comparison, FrontPoint

Place = tuple[float, float]


def curves(comparison: Comparison) -> dict[str, list[FrontPoint]]:
    """Each method's measured points in order of their value, the methods in the order of the comparison."""
    points = [p for p in comparison.front if p.past_accuracy.mean is not None and p.newest_accuracy.mean is not None]
    order = dict.fromkeys([*comparison.methods, *(point.method for point in points)])
    found = {label: sorted((p for p in points if p.method == label), key=lambda p: p.value) for label in order}
    return {label: line for label, line in found.items() if line}


def undominated(comparison: Comparison) -> list[FrontPoint]:
    """The points of the Pareto front: no other, nor plain fine-tuning, has means as good in both and better in one.

    Joint training, which learns from all data at once, is no rival here.
    """
    points = [point for line in curves(comparison).values() for point in line]
    places = {id(point): _place(point) for point in points}
    base = reference(comparison)
    rivals = [*places.values(), *_reference_places(comparison, [base] if base is not None else []).values()]
    sign = 1 if comparison.higher_is_better else -1

    def beaten(own: Place) -> bool:
        return any(
            other != own and sign * other[0] >= sign * own[0] and sign * other[1] >= sign * own[1] for other in rivals
        )

    return [point for point in points if not beaten(places[id(point)])]


def sentences(comparison: Comparison) -> list[str]:
    """Which strengths of which methods are on the Pareto front; of means, so described, not tested."""
    points = sum(map(len, curves(comparison).values()))
    found = undominated(comparison)
    if not points:
        return []
    over = f"({runs(cell for point in comparison.front[:1] for cell in point.cells)})"
    if not found:
        return [f"None of the {points} points is on the Pareto front: plain fine-tuning has no worse means {over}."]
    each: dict[str, list[FrontPoint]] = {}
    for point in sorted(found, key=lambda p: p.past_accuracy.mean or 0.0, reverse=comparison.higher_is_better):
        each.setdefault(point.method, []).append(point)
    which = [
        f"{title(label)} ({line[0].key} = {', '.join(number(p.value) for p in line)})" for label, line in each.items()
    ]
    are = "is" if len(found) == 1 else "are"
    return [
        f"{len(found)} of the {points} points {are} on the Pareto front, where no other has means as good in both and "
        f"better in one: {listing(which, 5)} {over}."
    ]


def _place(point: FrontPoint) -> Place:
    """New across, past up."""
    x, y = point.newest_accuracy.mean, point.past_accuracy.mean
    assert x is not None and y is not None
    return x, y


def _reference_places(comparison: Comparison, labels: Sequence[str]) -> dict[str, Place]:
    found = {}
    for label in labels:
        summary = comparison.methods[label]
        x, y = summary.newest_accuracy.mean, summary.past_accuracy.mean
        if x is not None and y is not None:
            found[label] = (x, y)
    return found


def area(own: float | None, plain: float | None) -> float:
    """The area of a mark, in square points: 30 at the time of plain fine-tuning, and in proportion to time."""
    return 30.0 * min(12.0, max(0.3, own / plain)) if own and plain else 30.0


def _look(given: dict[str, Look], label: str) -> Look:
    return given.get(label, Look(FLOOR, "o"))


@styled
def figure(comparison: Comparison) -> Figure:
    """Past accuracy against newest accuracy, a line a method; beside it the bytes that each holds and stores."""
    lines, given = curves(comparison), looks(comparison)
    base = reference(comparison)
    plain = comparison.methods[base].training_seconds.mean if base is not None else None
    drawing = Figure(figsize=(2 * WIDTH, 4.6 + 0.12 * max(0, len(lines) - 6)), layout="constrained")
    axes, beside = drawing.subplots(1, 2, width_ratios=(3, 1))
    best = {id(point) for point in undominated(comparison)}
    points: list[Place] = []
    names: list[str] = []
    colors: list[str] = []
    for label, line in lines.items():
        look = _look(given, label)
        places = [_place(point) for point in line]
        axes.plot(*zip(*places, strict=True), color=look.color, linewidth=1, alpha=0.7, zorder=1)
        for point, place in zip(line, places, strict=True):
            on_front = id(point) in best
            face = look.color if on_front else "none"
            axes.scatter(
                *place, s=area(point.training_seconds.mean, plain), marker=look.marker, facecolor=face,
                edgecolor=look.color, linewidth=1.2, zorder=3,
            )  # fmt: skip
            end = point is line[0] or point is line[-1]
            named = f"{short(label)} {point.key} {number(point.value)}" if point is line[0] else number(point.value)
            points.append(place)
            names.append(named if end else "")
            colors.append(look.color)
    references = [label for label, summary in comparison.methods.items() if role(summary.method)]
    for label, place in _reference_places(comparison, references).items():
        axes.plot(*place, given[label].marker, color=given[label].color, markersize=10, markeredgewidth=2)
        points.append(place)
        names.append(short(label))
        colors.append(given[label].color)
    front = sorted(_place(point) for line in lines.values() for point in line if id(point) in best)
    steps = "steps-pre" if comparison.higher_is_better else "steps-post"
    if front:
        dashes: dict[str, Any] = {"color": FLOOR, "linestyle": (0, (3, 3)), "linewidth": 0.9, "drawstyle": steps}
        axes.plot(*zip(*front, strict=True), zorder=0, **dashes)
    axes.set(xlabel=f"newest task: {comparison.primary}, just learnt", ylabel=f"earlier tasks: {comparison.primary}")
    axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    axes.margins(0.1)
    if not comparison.higher_is_better:
        axes.invert_xaxis()
        axes.invert_yaxis()
    _bytes(beside, lines, given)
    place_labels(axes, points, names, colors)
    return drawing


def _bytes(axes: Axes, lines: dict[str, list[FrontPoint]], given: dict[str, Look]) -> None:
    """A row a method: from least to most over its strengths, of what it holds while training and stores between."""
    largest = 0.0
    for y, (label, line) in enumerate(lines.items()):
        look = _look(given, label)
        fields = (
            ("extra_memory_bytes", -0.22, "none"),
            ("stored_bytes", 0.0, look.color),
            ("stored_data_bytes", 0.22, FLOOR),
        )
        for field, shift, face in fields:
            values = [float(getattr(point, field).mean or 0) for point in line]
            largest = max(largest, *values)
            color = FLOOR if field == "stored_data_bytes" else look.color
            axes.plot([min(values), max(values)], [y + shift] * 2, color=color, linewidth=1.2)
            axes.scatter(
                sorted({min(values), max(values)}),
                [y + shift] * len({min(values), max(values)}),
                s=16,
                facecolor=face,
                edgecolor=color,
                zorder=3,
            )
    axes.set_xscale("symlog", linthresh=10_000, linscale=1)
    ticks = [0.0, *(10.0**k for k in (4, 6, 8, 10, 12) if 10.0**k <= 10 * largest)]
    axes.set_xticks(ticks, [size(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-2500, 3 * max(largest, 10_000))
    axes.set_yticks(range(len(lines)), [short(label, 18) for label in lines])
    for tick, label in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_color(_look(given, label).color)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FLOOR, alpha=0.25, linewidth=0.6)
    axes.set_xlabel("memory (hollow), stored (filled),\nof it data (grey)")
