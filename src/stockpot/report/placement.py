"""Labels beside the points of a scatter plot, where they overlap neither each other nor what is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import cos, pi, sin

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

POINT = 7.0  # half the square kept free around a point, in pixels of the figure
LINE = 3.0  # the same beside a line
GAP = 2.0

Place = tuple[float, float]
Segment = tuple[Place, Place]


def place_labels(
    axes: Axes,
    points: Sequence[Place],
    names: Sequence[str],
    colors: Sequence[str],
    lines: Sequence[Segment] = (),
) -> None:
    """Writes each name near its point: of places on growing circles, the cheapest by overlap, then by distance.

    A point whose name is empty is only kept clear. A label that had to go far is tied to its point by a thin line in
    the point's colour. `lines` are upright or level, and kept clear as the points are. Freezes the figure's layout and
    the axes' limits.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw(renderer)  # settles the layout, and with it where the points lie
    figure.set_layout_engine("none")
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())

    centres = [axes.transData.transform(point) for point in points]
    taken = [Bbox.from_bounds(x - POINT, y - POINT, 2 * POINT, 2 * POINT) for x, y in centres]
    for line in lines:
        ends = axes.transData.transform(line)
        (left, bottom), (right, top) = ends.min(axis=0), ends.max(axis=0)
        taken.append(Bbox.from_extents(left - LINE, bottom - LINE, right + LINE, top + LINE))
    frame = axes.get_window_extent(renderer)
    to_points = 72 / figure.dpi
    for point, (x, y), name, color in zip(points, centres, names, colors, strict=True):
        if not name:
            continue
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize=8, ha="center", va="center")
        size = text.get_window_extent(renderer)
        width, height = size.width + 2 * GAP, size.height + 2 * GAP
        best, best_cost = (0.0, 0.0), float("inf")
        for radius, step in product(range(0, 200, 8), range(16)):
            angle = 2 * pi * step / 16
            dx, dy = cos(angle) * (width / 2 + POINT + radius), sin(angle) * (height / 2 + POINT + radius)
            box = _centred(x + dx, y + dy, width, height)
            outside = width * height - _shared(box, [frame])
            cost = 100 * (_shared(box, taken) + outside) + radius
            if cost < best_cost:
                best, best_cost = (dx, dy), cost
        dx, dy = best
        taken.append(_centred(x + dx, y + dy, width, height))
        text.set_position((dx * to_points, dy * to_points))
        if abs(dx) > width / 2 + 3 * POINT or abs(dy) > height / 2 + 3 * POINT:
            tie = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3, "zorder": 0}
            end = (_towards_zero(dx, width / 2) * to_points, _towards_zero(dy, height / 2) * to_points)
            axes.annotate("", point, end, textcoords="offset points", arrowprops=tie)


def _towards_zero(centre: float, half: float) -> float:
    """The coordinate of an interval around `centre` that is nearest to zero."""
    return max(centre - half, min(0.0, centre + half))


def _centred(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _shared(box: Bbox, others: Iterable[Bbox]) -> float:
    """The area that a box shares with others, in square pixels."""
    left, bottom, right, top = map(float, box.extents)
    area = 0.0
    for other in others:
        x0, y0, x1, y1 = map(float, other.extents)
        across, up = min(right, x1) - max(left, x0), min(top, y1) - max(bottom, y0)
        if across > 0 and up > 0:
            area += across * up
    return area
