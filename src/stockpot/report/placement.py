"""Labels beside the points of a scatter plot, where they overlap neither each other nor what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

POINT = 7.0  # half the square kept free around a point, in pixels of the figure
LINE = 3.0  # the same beside a line
GAP = 2.0

PlotPoint = tuple[float, float]
Segment = tuple[PlotPoint, PlotPoint]
Boxes = NDArray[np.float64]  # (N, 4): left, bottom, right, top


def along(curves: Sequence[Sequence[PlotPoint]]) -> list[Segment]:
    """Places all along the curves, close enough that no label fits between two of them: `lines` of `place_labels`."""
    corners = np.array([place for curve in curves for place in curve])
    span = np.maximum(corners.max(axis=0) - corners.min(axis=0), 1e-9)
    found: list[Segment] = []
    for curve in curves:
        for one, other in pairwise(np.array(curve)):
            between = np.linspace(one, other, 1 + int(np.ceil(50 * np.abs((other - one) / span).max())))
            found += [((x, y), (x, y)) for x, y in between.tolist()]
    return found


def place_labels(
    axes: Axes,
    points: Sequence[PlotPoint],
    names: Sequence[str],
    colors: Sequence[str],
    lines: Sequence[Segment] = (),
) -> None:
    """Writes each name near its point: of places on growing circles, the cheapest by overlap, then by distance.

    A point whose name is empty is only kept clear. A label that had to go far is tied to its point by a thin line in
    the point's colour. `lines` are upright or level, or come from `along`, and are kept clear as the points are.
    Freezes the figure's layout and the axes' limits.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw(renderer)  # settles the layout, and with it where the points lie
    figure.set_layout_engine("none")
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())

    centres = [tuple(axes.transData.transform(point)) for point in points]
    boxes = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in centres]
    if lines:
        ends = axes.transData.transform(np.array(lines).reshape(-1, 2)).reshape(-1, 2, 2)
        boxes += [(*low, *high) for low, high in zip(ends.min(1) - LINE, ends.max(1) + LINE, strict=True)]
    taken, frame = np.array(boxes).reshape(-1, 4), np.array([axes.get_window_extent(renderer).extents])
    angles, radii = np.arange(16) * np.pi / 8, np.arange(0, 200, 8)
    rings = np.repeat(radii, len(angles))
    to_points = 72 / figure.dpi
    for point, (x, y), name, color in zip(points, centres, names, colors, strict=True):
        if not name:
            continue
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize=8, ha="center", va="center")
        size = text.get_window_extent(renderer)
        half = np.array([size.width, size.height]) / 2 + GAP
        away = half + POINT + rings[:, None]
        shifts = np.stack([np.cos(angles), np.sin(angles)], axis=1)[None].repeat(len(radii), 0).reshape(-1, 2) * away
        middles = shifts + np.array([x, y])
        offered = np.concatenate([middles - half, middles + half], axis=1)
        outside = 4 * half.prod() - _shared(offered, frame)
        best = int(np.argmin(100 * (_shared(offered, taken) + outside) + rings))
        taken = np.concatenate([taken, offered[best : best + 1]])
        dx, dy = map(float, shifts[best])
        width, height = map(float, half)
        text.set_position((dx * to_points, dy * to_points))
        if abs(dx) > width + 3 * POINT or abs(dy) > height + 3 * POINT:
            tie = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3, "zorder": 0}
            end = (_towards_zero(dx, width) * to_points, _towards_zero(dy, height) * to_points)
            axes.annotate("", point, end, textcoords="offset points", arrowprops=tie)


def _towards_zero(centre: float, half: float) -> float:
    """The coordinate of an interval around `centre` that is nearest to zero."""
    return max(centre - half, min(0.0, centre + half))


def _shared(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """The area that each box shares with all the others, in square pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area: NDArray[np.float64] = (high - low).clip(min=0).prod(axis=2).sum(axis=1)
    return area
