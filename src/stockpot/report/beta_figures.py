"""β through the depth of a model: its mean in each layer and tensor by task, and how it spreads inside each layer."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

from stockpot.report.beta_layers import TENTHS, by_layer, mean_beta, of_task, pooled, share_by_tenth
from stockpot.report.charts import (
    FULL_WIDTH,
    MARKERS,
    PALETTE,
    WIDTH,
    Chart,
    Row,
    Spec,
    category,
    chart,
    distinct,
    hover,
    legend,
    mark,
    number,
    short,
    task_colors,
)
from stockpot.report.formatting import percent
from stockpot.report.stream_figures import MANY_TASKS
from stockpot.results import Results, TaskBetas, TensorBetas

MANY_LAYERS = 7  # beyond these, the figure is wide
MANY_DOTS = 500  # beyond these, only the last task's tensors are dots
_MOST_LABELS = 12


class _TaskProfile(NamedTuple):
    """One task: its number and name, β pooled over the runs, and each layer's mean β in each run (runs × layers)."""

    number: int
    name: str
    betas: TaskBetas
    means: list[list[float | None]]


def beta_caption(runs: Sequence[Results], where: str = "") -> str:
    """What `betas_by_depth` shows; `where`: of which runs it is the mean."""
    last = [name for k, name in enumerate(_task_names(runs)) if of_task(runs, k)][-1]
    lines = "a line for each task" if len(_task_names(runs)) <= MANY_TASKS else "the last task, and the range of all"
    several = f"; means over n = {len(runs)} runs{where}; band: lowest to highest run" if len(runs) > 1 else ""
    return (
        f"Above: mean β of each layer, {lines}; small dots: single tensors{several}. Below: after {last}, the share "
        "of each layer's weights with β in each tenth; the stronger the colour, the more of them."
    )


def betas_by_depth(runs: Sequence[Results], title: str = "") -> Chart:
    """Mean β of every layer and tensor by task, above the histograms of the layers after the last task.

    Args:
        runs: Runs of one method with the same tasks, at least one of which chose β.
        title: Written over the figure.
    """
    names = distinct(_task_names(runs), 24)
    count = len(names)
    chosen = {k: betas for k in range(count) if (betas := of_task(runs, k))}
    layers = list(dict.fromkeys(layer for betas in chosen.values() for b in betas for layer in by_layer(b.tensors)))
    tasks = [
        _TaskProfile(k, names[k], pooled(betas), [_layer_means(b, layers) for b in betas])
        for k, betas in chosen.items()
    ]
    wide = len(layers) > MANY_LAYERS
    width = FULL_WIDTH - 170 if wide else WIDTH - 110
    profile = _range(tasks, layers) if count > MANY_TASKS else _tasks(tasks, layers)
    colors = {task.name: PALETTE[0] for task in tasks} if count > MANY_TASKS else _colors(tasks, count)
    shapes = {task.name: MARKERS[task.number % len(MARKERS)] for task in tasks}
    shown = [tasks[-1].name] if count > MANY_TASKS else [task.name for task in tasks]
    if len(PALETTE) < len(shown):
        shown = [shown[0], shown[-1]]
    below = legend(shown, width, values=shown, symbolOpacity=1)
    above: Spec = {
        "data": {"values": profile}, "width": width, "height": 190,
        "layer": _profile_layers(layers, colors, shapes, below, _dots(tasks, layers, count)),
    }  # fmt: skip
    beneath: Spec = {
        "data": {"values": _shares(tasks[-1], layers)}, "width": width, "height": 150,
        "layer": [_histograms(tasks[-1], layers)],
    }  # fmt: skip
    parts: Spec = {
        "vconcat": [above, beneath],
        "spacing": 12,
        "resolve": {"scale": {"color": "independent", "shape": "independent", "opacity": "independent"}},
    }
    return chart(parts | ({"title": title} if title else {}), wide)


def _task_names(runs: Sequence[Results]) -> list[str]:
    return max((run.tasks for run in runs), key=len)


def _layer_means(betas: TaskBetas, layers: Sequence[str]) -> list[float | None]:
    known = {layer: mean_beta(tensors) for layer, tensors in by_layer(betas.tensors).items()}
    return [known.get(layer) for layer in layers]


def _colors(tasks: Sequence[_TaskProfile], count: int) -> dict[str, str]:
    colors = task_colors(count)
    return {task.name: colors[task.number] for task in tasks}


def _tasks(tasks: Sequence[_TaskProfile], layers: Sequence[str]) -> list[Row]:
    """Each task's mean in each layer, with the lowest and the highest run."""
    rows: list[Row] = []
    for task in tasks:
        for k, layer in enumerate(layers):
            known = [means[k] for means in task.means]
            values = [value for value in known if value is not None]
            if values:
                mean = fsum(values) / len(values)
                band = {"low": min(values), "high": max(values)} if len(task.means) > 1 else {}
                rows.append(
                    {"task": task.name, "depth": k + 0.5, "layer": layer, "beta": mean, "said": f"{mean:.2f}", **band}
                )
    return rows


def _range(tasks: Sequence[_TaskProfile], layers: Sequence[str]) -> list[Row]:
    """Of many tasks the last, and the range of their means."""
    every = _tasks(tasks, layers)
    rows = [row for row in every if row["task"] == tasks[-1].name]
    for row in rows:
        means = [other["beta"] for other in every if other["depth"] == row["depth"]]
        row |= {"low": min(means), "high": max(means), "said": f"{row['said']} ({min(means):.2f} to {max(means):.2f})"}
    return rows


def _dots(tasks: Sequence[_TaskProfile], layers: Sequence[str], count: int) -> list[Row]:
    """The tensors, evenly spread over the width of their layer."""
    if count > MANY_TASKS or sum(len(task.betas.tensors) for task in tasks) > MANY_DOTS:
        tasks = tasks[-1:]
    return [
        {"task": task.name, "depth": layers.index(layer) + (k + 0.5) / len(tensors), "layer": tensor.tensor,
         "beta": tensor.mean, "said": f"{tensor.mean:.2f}"}
        for task in tasks
        for layer, tensors in by_layer(task.betas.tensors).items()
        for k, tensor in enumerate(tensors)
    ]  # fmt: skip


def _depth(layers: Sequence[str], labels: bool) -> Spec:
    """The axis of layers: names of the first, the last and even steps between, so that none overlap."""
    step = -(-len(layers) // _MOST_LABELS)
    named_layers = [k for k in range(0, len(layers), step) if len(layers) - 1 - k >= step] + [len(layers) - 1]
    texts = {k: short(layers[k], 20) for k in named_layers}
    slanted = sum(map(len, texts.values())) > 40
    axis: Spec = {"values": [k + 0.5 for k in named_layers], "labels": labels, "ticks": False, "grid": False}
    if labels:
        quoted = ", ".join(_quoted(texts.get(k, "")) for k in range(len(layers)))
        axis |= {"labelExpr": f"[{quoted}][floor(datum.value)]", "labelAngle": -35 if slanted else 0, "labelLimit": 140}
        axis |= {"labelOverlap": False, "labelAlign": "right"} if slanted else {}
    title = "depth: layers in the model's order" if labels else None
    return number("depth", title, {"domain": [0, len(layers)], "nice": False}, axis=axis)


def _quoted(text: str) -> str:
    """A name as a string of Vega's expressions, in which only letters and digits stand for themselves."""
    return "'" + "".join(c if (c.isalnum() and c.isascii()) or c in " ._-" else f"\\u{ord(c):04x}" for c in text) + "'"


def _profile_layers(
    layers: Sequence[str], colors: dict[str, str], shapes: dict[str, str], below: Spec, dots: list[Row]
) -> list[Spec]:
    scale = {"domain": [-0.02, 1.02], "nice": False}
    ends = "datum.value == 0 ? 'trained  0' : datum.value == 1 ? 'anchor  1' : datum.value == 0.5 ? '0.5' : ''"
    axis = {"values": [0, 0.25, 0.5, 0.75, 1], "labelExpr": ends}
    color = category("task", colors, legend=below)
    base: Spec = {"x": _depth(layers, False), "y": number("beta", "mean β", scale, axis=axis), "color": color}
    said = hover(task="task", layer="layer", said="mean β")
    band = {"x": base["x"], "y": number("low", "mean β", scale), "y2": {"field": "high"}, "color": color}
    small = len(layers) > MANY_LAYERS
    shape = {"shape": category("task", shapes, legend=below)} if len(shapes) <= len(MARKERS) else {}
    return [
        mark("area", band, opacity=0.18, aria=False, transform=[{"filter": "isValid(datum.low)"}]),
        mark("line", base, strokeWidth=1.6, aria=False),
        mark("point", {**base, **shape, "tooltip": said}, size=18 if small else 55),
        mark("point", {**base, "tooltip": said}, data={"values": dots}, size=10, opacity=0.6),
    ]


def _shares(task: _TaskProfile, layers: Sequence[str]) -> list[Row]:
    """Ten cells for each layer: the share of its weights with β in each tenth; empty cells are left out."""
    grouped = by_layer(task.betas.tensors)
    columns: list[list[TensorBetas]] = [grouped.get(layer, []) for layer in layers]
    return [
        {"depth": k, "right": k + 1, "layer": layers[k], "low": tenth / TENTHS, "high": (tenth + 1) / TENTHS,
         "share": share, "said": percent(share), "tenth": f"{tenth / TENTHS:.1f} to {(tenth + 1) / TENTHS:.1f}"}
        for k, tensors in enumerate(columns) if tensors
        for tenth, share in enumerate(share_by_tenth(tensors)) if share
    ]  # fmt: skip


def _histograms(task: _TaskProfile, layers: Sequence[str]) -> Spec:
    bar = {"title": "of its weights", "format": ".0%", "orient": "right", "tickCount": 3, "symbolFillColor": PALETTE[0]}
    bar |= {"symbolType": "square", "symbolStrokeWidth": 0}
    axis = {"values": [0, 0.5, 1], "grid": False}
    encoding: Spec = {
        "x": _depth(layers, True), "x2": {"field": "right"},
        "y": number("low", f"β after {short(task.name, 12)}", {"domain": [0, 1], "nice": False}, axis=axis),
        "y2": {"field": "high"},
        "opacity": {"field": "share", "type": "quantitative", "scale": {"domainMin": 0, "range": [0.04, 1]},
                    "legend": bar},
        "tooltip": hover(layer="layer", tenth="β", said="share of its weights"),
    }  # fmt: skip
    return mark("rect", encoding, color=PALETTE[0])
