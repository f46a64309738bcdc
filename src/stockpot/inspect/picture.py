"""How two checkpoints differ by depth, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TypeAlias

from stockpot.errors import StockpotError
from stockpot.inspect.differences import CheckpointComparison, TensorDifference
from stockpot.inspect.name_patterns import fold_names, grouped
from stockpot.merging.plan.layer_stacks import layer_of
from stockpot.report.charts import (
    MARKERS,
    PALETTE,
    Chart,
    Row,
    Spec,
    category,
    chart,
    distinct,
    hover,
    mark,
    number,
    short,
)

_CURVES = 24  # at most: those that differ most
_PLOT_WIDTH = 430
# A kind of tensor: its name, and for each layer the difference of its tensors as one vector; −1 is outside the layers.
Curve: TypeAlias = tuple[str, Mapping[int, TensorDifference]]


def difference_figure(comparison: CheckpointComparison) -> Chart:
    """Relative distance and cosine against the layer. Raises StockpotError where no tensor has a distance."""
    curves, whole = curves_of(comparison.measured), comparison.whole
    if not curves:
        raise StockpotError(f"{comparison.first} and {comparison.second} share no tensor that has a distance.")
    shown = curves[:_CURVES]
    names = distinct([name for name, _ in shown], 34)
    colors = dict(zip(names, cycle(PALETTE), strict=False))
    shapes = dict(zip(names, cycle(MARKERS), strict=False))
    left_out = f"{len(curves) - len(shown)} more differ less" if len(curves) > len(shown) else None
    beside = {"orient": "right", "title": left_out, "columns": 1, "labelLimit": 300}
    numbers = sorted({number for _, points in shown for number in points})
    panels = []
    for key, title in (("distance", "distance ‖a − b‖ / ‖a‖"), ("cosine", "cosine of a and b")):
        rows = [
            {"tensor": name, "layer": layer, "value": value, "said": f"{value:.6g}"}
            for name, (_, points) in zip(names, shown, strict=True)
            for layer, point in points.items()
            if (value := getattr(point, key)) is not None
        ]
        encoding: Spec = {
            "x": number("layer", "layer", {"padding": 8, "nice": False}, axis=_layer_axis(numbers)),
            "y": number("value", title, _value_scale(key, rows)),
            "color": category("tensor", colors, legend=beside),
            "tooltip": hover(tensor="tensor", layer="layer", said=key),
        }
        shape = {"shape": category("tensor", shapes, legend=beside)}
        line = {axis: encoding[axis] for axis in ("x", "y", "color")}
        layers = [mark("line", line, strokeWidth=1.3, aria=False), mark("point", {**encoding, **shape}, size=24)]
        if (value := getattr(whole, key)) is not None:
            mean = {"values": [{"value": value, "tensor": "whole model", "said": f"{value:.6g}"}]}
            said = {"y": encoding["y"], "tooltip": hover(tensor="tensor", said=key)}
            layers.append(mark("rule", said, data=mean, strokeDash=[5, 3]))
        panels.append({"data": {"values": rows}, "width": _PLOT_WIDTH, "height": 190, "layer": layers})
    whole_words = "" if whole.distance is None else f"whole model (dashed): {whole.distance:.3g}"
    whole_words += f", {whole.cosine:.6g}" if whole.cosine is not None and whole_words else ""
    heading = [f"a: {short(comparison.first, 72)}", f"b: {short(comparison.second, 72)}", *filter(None, [whole_words])]
    return chart({"vconcat": panels, "title": heading}, wide=True)


def _layer_axis(numbers: list[int]) -> Spec:
    """Even numbers of layers; −1 is what lies outside them."""
    ticks = [number for number in numbers if number < 0 or number % max(1, numbers[-1] // 12) == 0]
    return {"values": ticks, "labelExpr": "datum.value < 0 ? 'outside' : datum.label", "format": "d", "grid": False}


def _value_scale(key: str, rows: list[Row]) -> Spec:
    """Distances from zero, by their logarithm where the largest are far from the smallest."""
    distances = [row["value"] for row in rows if row["value"]]
    if key != "distance" or not distances:
        return {"padding": 8}
    if max(distances) > 50 * min(distances):
        return {"type": "symlog", "constant": min(distances), "nice": False}
    return {"zero": True}


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
