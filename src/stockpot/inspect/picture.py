"""How two checkpoints differ by depth, as a picture; importing this file loads matplotlib."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from stockpot.errors import StockpotError
from stockpot.inspect.differences import Comparison, Difference
from stockpot.merging.plan.layer_stacks import layer_of
from stockpot.report.figures import FLOOR, INK, MARKERS, PALETTE, house_style, short, styled

_KINDS = 24  # lines that a legend can still tell apart
_STROKES = ("-", (0, (4, 2)), (0, (6, 2, 1, 2)), (0, (1, 2)))
_SLOTS = 10  # marks outside the layers


class Line(NamedTuple):
    """One kind of tensor over the layers: layer → median over the tensors of that kind in it."""

    module: str
    leaf: str
    distance: Mapping[int, float | None]
    cosine: Mapping[int, float | None]


class Mark(NamedTuple):
    """A tensor outside the layers; `feeds` says whether it comes before them."""

    module: str
    feeds: bool
    leaf: str
    distance: float | None
    cosine: float | None


def save(figure: Figure, file: Path) -> None:
    """Writes the picture on white, in the format of the file's name, the same bytes for the same figure."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with house_style():
        figure.savefig(file, dpi=200, facecolor="white", metadata={"Date": None} if file.suffix == ".svg" else None)


def lines_and_marks(differences: Sequence[Difference]) -> tuple[list[Line], list[Mark]]:
    """What is drawn: a line for every kind of tensor in the layers, by distance from most to least; marks beside."""
    kinds: dict[tuple[str, str], dict[int, list[Difference]]] = {}
    marks = []
    roots = {layer[0].split(".")[0] for one in differences if (layer := layer_of(one.name)) is not None}
    for one in differences:
        layer = layer_of(one.name)
        if layer is None:
            module, _, leaf = one.name.rpartition(".")
            feeds = any(word in one.name for word in ("embed", "wte", "wpe"))
            marks.append(Mark(_outside(module or leaf, roots), feeds, leaf, one.distance, one.cosine))
        else:
            kind = re.sub(r"(?<=\.)\d+(?=\.|$)", "#", layer[2]).removeprefix(".")
            kinds.setdefault((layer[0], kind), {}).setdefault(layer[1], []).append(one)
    stacks = len({stack for stack, _ in kinds})
    lines = []
    for (stack, kind), layers in kinds.items():
        module, _, leaf = (f"{stack}#.{kind}" if stacks > 1 else kind).rpartition(".")
        distance = {number: _median([one.distance for one in layers[number]]) for number in sorted(layers)}
        cosine = {number: _median([one.cosine for one in layers[number]]) for number in sorted(layers)}
        lines.append(Line(module or leaf, leaf, distance, cosine))
    return sorted(lines, key=lambda line: -(_median(list(line.distance.values())) or 0.0)), marks


def _outside(module: str, roots: Collection[str]) -> str:
    """A short name: without the root that the layers have too, nor a parent that its last part repeats."""
    *parents, last = module.split(".")
    parent = next((part for part in parents[::-1] if part not in roots), "")
    return last if not parent or parent in last else f"{parent}.{last}"


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


@styled
def picture(comparison: Comparison) -> Figure:
    """Relative distance and cosine against the layer, a line for every kind of tensor; embeddings, head beside.

    Raises StockpotError where no tensor has a distance.
    """
    lines, marks = lines_and_marks([one for one in comparison.measured if one.distance is not None])
    if not lines and not marks:
        raise StockpotError(f"{comparison.first} and {comparison.second} share no tensor that has a distance.")
    hidden = max(0, len(lines) - _KINDS)
    lines = lines[:_KINDS]
    height = max(4.8, 1.4 + 0.19 * (len(lines) + 2))
    figure = Figure(figsize=(7.4, height), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    looks = _looks(lines)
    slots = _slots(lines, marks)
    for axes, of in ((upper, "distance"), (lower, "cosine")):
        _draw(axes, of, lines, looks, marks, slots)
        total = getattr(comparison, of)
        if total is not None:
            axes.axhline(total, color=FLOOR, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
        axes.grid(axis="y", color=FLOOR, alpha=0.25, linewidth=0.6)
    _distance_axis(upper, _values("distance", lines, marks, comparison.distance))
    _cosine_axis(lower, _values("cosine", lines, marks, comparison.cosine))
    _layer_axis(lower, lines, slots)
    upper.set_ylabel("distance ‖a − b‖ / ‖a‖")
    lower.set_ylabel("cosine of a and b")
    figure.align_ylabels()
    upper.set_title(f"a: {short(comparison.first, 72)}\nb: {short(comparison.second, 72)}", loc="left")
    _legend(figure, lines, looks, hidden, comparison)
    return figure


def _looks(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Of every line how it is drawn: a colour, a marker and a stroke for its module, open and dotted if no weight."""
    numbers = {module: number for number, module in enumerate(sorted({line.module for line in lines}))}
    looks = []
    for line in lines:
        number, whole = numbers[line.module], line.leaf == "weight"
        color = PALETTE[number % len(PALETTE)]
        stroke: Any = _STROKES[number // len(PALETTE) % len(_STROKES)] if whole else ":"
        looks.append({
            "color": color, "marker": MARKERS[number % len(MARKERS)], "linestyle": stroke, "linewidth": 1.1,
            "markersize": 4.0, "markeredgewidth": 0.8, "markerfacecolor": color if whole else "none",
        })  # fmt: skip
    return looks


def _slots(lines: Sequence[Line], marks: Sequence[Mark]) -> dict[str, float]:
    """Where the marks stand: what feeds the layers left of the first, all else right of the last."""
    last = max((number for line in lines for number in line.distance), default=0)
    step = max(1.0, last / 16)
    modules = list(dict.fromkeys(mark.module for mark in marks))
    if len(modules) > _SLOTS:
        ranked = sorted(marks, key=lambda mark: -(mark.distance or 0.0))
        kept = list(dict.fromkeys(mark.module for mark in ranked))[:_SLOTS]
        modules = [module for module in modules if module in kept]
    feeding = {mark.module for mark in marks if mark.feeds}
    before = [module for module in modules if module in feeding]
    after = sorted((module for module in modules if module not in before), key=lambda name: "head" in name)
    left = {module: -step * (len(before) - number + 0.25) for number, module in enumerate(before)}
    right = {module: last + step * (number + 1.25) for number, module in enumerate(after)}
    return left | right


def _draw(
    axes: Axes,
    of: str,
    lines: Sequence[Line],
    looks: Sequence[dict[str, Any]],
    marks: Sequence[Mark],
    slots: Mapping[str, float],
) -> None:
    for line, look in zip(lines, looks, strict=True):
        values = {number: math.nan if value is None else value for number, value in getattr(line, of).items()}
        axes.plot(list(values), list(values.values()), **(look if len(values) <= 40 else look | {"markersize": 2.0}),
                  clip_on=False)  # fmt: skip
    for mark in marks:
        if mark.module in slots and (value := getattr(mark, of)) is not None:
            face = INK if mark.leaf == "weight" else "none"
            axes.plot(
                slots[mark.module], value, marker="D", color=INK, markersize=5, markerfacecolor=face, clip_on=False
            )


def _values(of: str, lines: Sequence[Line], marks: Sequence[Mark], total: float | None) -> list[float]:
    parts = [value for line in lines for value in getattr(line, of).values()]
    return [value for value in (*parts, *(getattr(mark, of) for mark in marks), total) if value is not None]


def _distance_axis(axes: Axes, values: Sequence[float]) -> None:
    """From zero; logarithmic above the least distance where they differ more than fiftyfold."""
    positive = [value for value in values if value > 0]
    if not positive or max(positive) <= 50 * min(positive):
        axes.set_ylim(0, 1.12 * max(positive, default=0.9))
        return
    floor = 10.0 ** math.floor(math.log10(min(positive)))
    axes.set_yscale("symlog", linthresh=floor, linscale=0.4)
    axes.set_ylim(0 if len(positive) < len(values) else 0.8 * min(positive), 1.6 * max(positive))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def _cosine_axis(axes: Axes, values: Sequence[float]) -> None:
    least, most = min(values, default=1.0), max(values, default=1.0)
    span = max(most - least, 1 - least, 1e-6)
    axes.set_ylim(least - 0.08 * span, most + 0.08 * span)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)


def _layer_axis(axes: Axes, lines: Sequence[Line], slots: Mapping[str, float]) -> None:
    """Numbers for layers, slanted names for what lies outside them."""
    last = max((number for line in lines for number in line.distance), default=0)
    every = next(step for power in range(12) for step in (10**power, 2 * 10**power, 5 * 10**power) if last / step <= 12)
    axes.set_xticks(range(0, last + 1, every) if lines else ())
    names = [short(module, 22) for module in slots]
    axes.set_xticks(list(slots.values()), names, minor=True, rotation=40, ha="right", rotation_mode="anchor")
    if lines:
        axes.annotate("layer", (last / 2, 0), (0, -24), ("data", "axes fraction"), "offset points",
                      fontsize=9, ha="center", va="top")  # fmt: skip


def _legend(
    figure: Figure, lines: Sequence[Line], looks: Sequence[dict[str, Any]], hidden: int, comparison: Comparison
) -> None:
    """One entry a line, in the order of the distances."""
    handles = []
    for line, look in zip(lines, looks, strict=True):
        name = line.module if line.leaf in ("weight", line.module) else f"{line.module} {line.leaf}"
        handles.append(Line2D([], [], **look, label=short(name, 34)))
    if hidden:
        handles.append(Line2D([], [], linestyle="none", label=f"and {hidden} that differ less"))
    label = f"whole model: {comparison.distance:.3g}, {comparison.cosine:.6g}" if comparison.cosine else "whole model"
    handles.append(Line2D([], [], color=FLOOR, linewidth=0.9, linestyle=(0, (5, 3)), label=label))
    figure.legend(handles=handles, loc="outside right center", handlelength=2.8)
