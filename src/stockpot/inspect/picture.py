"""How two checkpoints differ by depth, as a picture; importing this file loads matplotlib."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from stockpot.errors import StockpotError
from stockpot.inspect.differences import CheckpointComparison, TensorDifference
from stockpot.merging.plan.layer_stacks import layer_of
from stockpot.printing import escape_controls

_CURVES, _MARKS = 24, 10  # in the layers and outside them, at most: those that differ most
_STYLE: dict[Any, Any] = {
    "font.size": 9.0, "axes.titlesize": 9.0, "axes.labelsize": 9.0, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "stockpot",
}  # fmt: skip


class Curve(NamedTuple):
    """A kind of tensor in the layers, or a tensor outside them: layer (outside, 0) → distance and cosine."""

    name: str
    distance: Mapping[int, float]
    cosine: Mapping[int, float]


def save_picture(comparison: CheckpointComparison, files: Iterable[Path]) -> None:
    """Draws relative distance and cosine against the layer, and writes them in the formats of the files' names.

    Raises StockpotError where no tensor has a distance.
    """
    inside, outside = curves_of(comparison.measured)
    if not inside and not outside:
        raise StockpotError(f"{comparison.first} and {comparison.second} share no tensor that has a distance.")
    with mpl.rc_context(_STYLE):
        figure = _draw(comparison, inside, outside)
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Without a date, so that the same figure is the same bytes.
            figure.savefig(file, dpi=200, facecolor="white", metadata={"Date": None} if file.suffix == ".svg" else None)


def curves_of(differences: Mapping[str, TensorDifference]) -> tuple[list[Curve], list[Curve]]:
    """A curve for every kind of tensor in the layers, medians over the layer's tensors; and the tensors outside.

    Both begin with the largest distance; tensors without a distance are left out.
    """
    drawn = [name for name, difference in differences.items() if difference.distance is not None]
    layers = {name: layer_of(name) or ("", -1, name) for name in drawn}
    stacks = {stack for stack, number, _ in layers.values() if number >= 0}
    root = next(iter(stacks)).partition(".")[0] + "." if len(stacks) == 1 else ""
    kinds: dict[tuple[bool, str], dict[int, list[TensorDifference]]] = {}
    for name, (stack, number, rest) in layers.items():
        kind = re.sub(r"(?<=\.)\d+(?=\.|$)", "#", rest).removeprefix(".")
        kind = kind.removeprefix(root) if number < 0 else kind if root else f"{stack}#.{kind}"
        kinds.setdefault((number >= 0, kind), {}).setdefault(max(number, 0), []).append(differences[name])
    curves: tuple[list[Curve], list[Curve]] = ([], [])
    for (inside, kind), by_layer in kinds.items():
        distance, cosine = _medians(by_layer, "distance"), _medians(by_layer, "cosine")
        curves[not inside].append(Curve(kind.removesuffix(".weight"), distance, cosine))
    for part in curves:
        part.sort(key=lambda curve: -statistics.median(curve.distance.values()))
    return curves


def _medians(layers: Mapping[int, list[TensorDifference]], key: str) -> dict[int, float]:
    values = {number: [getattr(difference, key) for difference in layers[number]] for number in sorted(layers)}
    known = {number: [value for value in part if value is not None] for number, part in values.items()}
    return {number: statistics.median(part) if part else math.nan for number, part in known.items()}


def _draw(comparison: CheckpointComparison, inside: list[Curve], outside: list[Curve]) -> Figure:
    curves, marks, whole = inside[:_CURVES], outside[:_MARKS], comparison.whole
    last = max((number for curve in curves for number in curve.distance), default=0)
    step = max(1.0, last / 16)
    before = [mark for mark in marks if any(word in mark.name for word in ("embed", "wte", "wpe"))]
    after = [mark for mark in marks if mark not in before]
    places = {mark.name: -step * (number + 1.5) for number, mark in enumerate(before)}
    places |= {mark.name: last + step * (number + 1.5) for number, mark in enumerate(after)}

    figure = Figure(figsize=(7.4, max(4.8, 1.4 + 0.19 * (len(curves) + 2))), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, key in ((upper, "distance"), (lower, "cosine")):
        for number, curve in enumerate(curves):
            values, stroke = getattr(curve, key), "-" if number < 10 else "--" if number < 20 else ":"
            axes.plot(list(values), list(values.values()), marker="os^Dv"[number % 5], markersize=3.5, linewidth=1.1,
                      color=f"C{number % 10}", linestyle=stroke, label=_short(curve.name, 34))  # fmt: skip
        for mark in marks:
            axes.plot(places[mark.name], getattr(mark, key)[0], marker="D", markersize=5, color="#24292e")
        if (value := getattr(whole, key)) is not None:
            label = f"whole model: {whole.distance:.3g}" + (f", {whole.cosine:.6g}" if whole.cosine else "")
            axes.axhline(value, color="#7d828a", linewidth=0.9, linestyle="--", zorder=1, label=label)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    distances = [value for curve in (*curves, *marks) for value in curve.distance.values() if value > 0]
    if distances and max(distances) > 50 * min(distances):
        upper.set_yscale("symlog", linthresh=min(distances), linscale=0.4)
        upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    upper.set_ylim(0, 1.3 * max(distances, default=1.0))
    upper.set_ylabel("distance ‖a − b‖ / ‖a‖")
    upper.set_title(f"a: {_short(comparison.first, 72)}\nb: {_short(comparison.second, 72)}", loc="left")
    lower.set_ylabel("cosine of a and b")
    lower.ticklabel_format(axis="y", style="plain", useOffset=False)
    lower.set_xlabel("layer")
    lower.set_xticks([tick for tick in MaxNLocator(12, integer=True).tick_values(0, last) if 0 <= tick <= last])
    lower.set_xticks(list(places.values()), [_short(name, 22) for name in places], minor=True, rotation=40,
                     ha="right", rotation_mode="anchor")  # fmt: skip
    figure.align_ylabels()
    left_out = f"{len(inside) - len(curves)} more differ less" if len(inside) > len(curves) else None
    figure.legend(*upper.get_legend_handles_labels(), loc="outside right center", title=left_out)
    return figure


def _short(name: str, length: int) -> str:
    """On one line, cut in the middle, for both ends tell names apart."""
    text = escape_controls(name, lines=False)
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length // 2) :]}"
