"""How two checkpoints differ by depth, as a picture; importing this file loads matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from stockpot.errors import StockpotError
from stockpot.inspect.differences import CheckpointComparison, TensorDifference
from stockpot.inspect.name_patterns import fold_names
from stockpot.merging.plan.layer_stacks import layer_of
from stockpot.report.figures import FLOOR, INK, MARKERS, PALETTE, save_figure, short, styled

_CURVES, _MARKS = 24, 10  # in the layers and outside them, at most: those that differ most


class Curve(NamedTuple):
    """A kind of tensor in the layers, or (as layer 0) a tensor outside them: in each layer, all as if one vector."""

    name: str
    layers: Mapping[int, TensorDifference]


def save_picture(comparison: CheckpointComparison, *files: Path) -> None:
    """Draws relative distance and cosine against the layer, and writes them in the formats of the files' names.

    Raises StockpotError where no tensor has a distance.
    """
    inside, outside = curves_of(comparison.measured)
    if not inside and not outside:
        raise StockpotError(f"{comparison.first} and {comparison.second} share no tensor that has a distance.")
    figure = _draw(comparison, inside, outside)
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, *files)


def curves_of(differences: Mapping[str, TensorDifference]) -> tuple[list[Curve], list[Curve]]:
    """A curve for every kind of tensor in the layers, named as in the listing; and one for every tensor outside.

    Both begin with the largest distance; tensors without a distance are left out.
    """
    drawn = {name: difference for name, difference in differences.items() if difference.distance is not None}
    stacks = {layer[0] for name in drawn if (layer := layer_of(name))}
    stack = stacks.pop() if len(stacks) == 1 else None  # then names need not repeat it, nor the model that it is in
    module = (stack or "").partition(".")[0] + "."
    curves: tuple[list[Curve], list[Curve]] = ([], [])
    for pattern, names in fold_names(drawn):
        layers: dict[int, TensorDifference] = {}
        for name in names:
            number = layer[1] if (layer := layer_of(name)) else 0
            layers[number] = layers.get(number, TensorDifference()) + drawn[name]
        outside = layer_of(names[0]) is None
        in_stack = stack is not None and not outside
        label = pattern.removeprefix(stack or "").partition(".")[2] if in_stack else pattern.removeprefix(module)
        curves[outside].append(Curve(label.removesuffix(".weight"), dict(sorted(layers.items()))))
    for part in curves:
        part.sort(key=lambda curve: -(sum(curve.layers.values(), TensorDifference()).distance or 0.0))
    return curves


@styled
def _draw(comparison: CheckpointComparison, inside: list[Curve], outside: list[Curve]) -> Figure:
    curves, marks, whole = inside[:_CURVES], outside[:_MARKS], comparison.whole
    last = max((number for curve in curves for number in curve.layers), default=0)
    before = [mark for mark in marks if any(word in mark.name for word in ("embed", "wte", "wpe"))]
    after = [mark for mark in marks if mark not in before]
    step = max(1.0, last / 16)
    places = {mark.name: -step * (number + 1.5) for number, mark in enumerate(before)}
    places |= {mark.name: last + step * (number + 1.5) for number, mark in enumerate(after)}

    figure = Figure(figsize=(7.4, max(4.8, 1.4 + 0.19 * (len(curves) + 2))), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, key in ((upper, "distance"), (lower, "cosine")):
        for curve, color, marker in zip(curves, cycle(PALETTE), cycle(MARKERS), strict=False):
            values = [getattr(difference, key) for difference in curve.layers.values()]
            label = short(curve.name, 34)
            axes.plot(
                list(curve.layers), values, color=color, marker=marker, markersize=3.5, linewidth=1.1, label=label
            )
        for mark in marks:
            axes.plot(places[mark.name], getattr(mark.layers[0], key), color=INK, marker="D", markersize=5)
        if (value := getattr(whole, key)) is not None:
            label = f"whole model: {whole.distance:.3g}" + (f", {whole.cosine:.6g}" if whole.cosine else "")
            axes.axhline(value, color=FLOOR, linewidth=0.9, linestyle="--", zorder=1, label=label)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    distances = [each.distance for curve in (*curves, *marks) for each in curve.layers.values() if each.distance]
    if distances and max(distances) > 50 * min(distances):
        upper.set_yscale("symlog", linthresh=min(distances), linscale=0.4)
        upper.yaxis.set_major_formatter("{x:g}")
    upper.set_ylim(0, 1.3 * max(distances, default=1.0))
    upper.set_ylabel("distance ‖a − b‖ / ‖a‖")
    upper.set_title(f"a: {short(comparison.first, 72)}\nb: {short(comparison.second, 72)}", loc="left")
    lower.set_ylabel("cosine of a and b")
    lower.ticklabel_format(axis="y", style="plain", useOffset=False)
    lower.set_xlabel("layer")
    lower.set_xticks(range(0, last + 1, 1 + last // 12))
    names = [short(name, 22) for name in places]
    lower.set_xticks(list(places.values()), names, minor=True, rotation=40, ha="right", rotation_mode="anchor")
    figure.align_ylabels()
    left_out = f"{len(inside) - len(curves)} more differ less" if len(inside) > len(curves) else None
    figure.legend(*upper.get_legend_handles_labels(), loc="outside right center", title=left_out)
    return figure
