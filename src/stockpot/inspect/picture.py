"""How two checkpoints differ by depth, as a picture; importing this file loads matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TypeAlias

from matplotlib.figure import Figure

from stockpot.errors import StockpotError
from stockpot.inspect.differences import CheckpointComparison, TensorDifference
from stockpot.inspect.name_patterns import fold_names, grouped
from stockpot.merging.plan.layer_stacks import layer_of
from stockpot.report.figures import FLOOR, MARKERS, PALETTE, short, styled

_CURVES = 24  # at most: those that differ most
# A kind of tensor: its name, and for each layer the difference of its tensors as one vector; −1 is outside the layers.
Curve: TypeAlias = tuple[str, Mapping[int, TensorDifference]]


@styled
def difference_figure(comparison: CheckpointComparison) -> Figure:
    """Relative distance and cosine against the layer. Raises StockpotError where no tensor has a distance."""
    curves, whole = curves_of(comparison.measured), comparison.whole
    if not curves:
        raise StockpotError(f"{comparison.first} and {comparison.second} share no tensor that has a distance.")
    shown = curves[:_CURVES]
    figure = Figure(figsize=(7.4, max(4.8, 1.4 + 0.19 * (len(shown) + 2))), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, key in ((upper, "distance"), (lower, "cosine")):
        for (name, points), color, marker in zip(shown, cycle(PALETTE), cycle(MARKERS), strict=False):
            values, look = [getattr(point, key) for point in points.values()], {"color": color, "marker": marker}
            axes.plot(list(points), values, **look, markersize=3.5, linewidth=1.1, label=short(name, 34))
        if (value := getattr(whole, key)) is not None:
            label = f"whole model: {whole.distance:.3g}" + (f", {whole.cosine:.6g}" if whole.cosine else "")
            axes.axhline(value, color=FLOOR, linewidth=0.9, linestyle="--", zorder=1, label=label)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    distances = [point.distance for _, points in shown for point in points.values() if point.distance]
    if distances and max(distances) > 50 * min(distances):
        upper.set_yscale("symlog", linthresh=min(distances), linscale=0.4)
        upper.yaxis.set_major_formatter("{x:g}")
    upper.set_ylim(0, 1.3 * max(distances, default=1.0))
    upper.set_ylabel("distance ‖a − b‖ / ‖a‖")
    upper.set_title(f"a: {short(comparison.first, 72)}\nb: {short(comparison.second, 72)}", loc="left")
    lower.set_ylabel("cosine of a and b")
    lower.ticklabel_format(axis="y", style="plain", useOffset=False)
    lower.set_xlabel("layer")
    numbers = sorted({number for _, points in shown for number in points})
    ticks = [number for number in numbers if number < 0 or number % max(1, numbers[-1] // 12) == 0]
    lower.set_xticks(ticks, ["\noutside" if number < 0 else f"{number}" for number in ticks])
    figure.align_ylabels()
    left_out = f"{len(curves) - len(shown)} more differ less" if len(curves) > len(shown) else None
    figure.legend(*upper.get_legend_handles_labels(), loc="outside right center", title=left_out)
    return figure


def curves_of(differences: Mapping[str, TensorDifference]) -> list[Curve]:
    """A curve for each row of the listing that has distances, the largest first."""
    drawn = {name: difference for name, difference in differences.items() if difference.distance is not None}
    layers = {name: layer for name in drawn if (layer := layer_of(name))}
    stacks = {stack for stack, _, _ in layers.values()}
    curves: list[Curve] = []
    for pattern, names in fold_names(drawn):
        points = grouped((layers[name][1] if name in layers else -1, drawn[name]) for name in names)
        label = pattern.removesuffix(".weight")
        if len(stacks) == 1 and names[0] in layers:  # the name of the only stack says nothing
            label = label.removeprefix(*stacks).partition(".")[2]
        curves.append((label, {number: sum(points[number], TensorDifference()) for number in sorted(points)}))
    return sorted(curves, key=lambda curve: -(sum(curve[1].values(), TensorDifference()).distance or 0.0))
