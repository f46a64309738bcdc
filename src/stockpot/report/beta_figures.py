"""β through the depth of a model: its mean in each layer and tensor by task, and how it spreads inside each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from stockpot.report.beta_layers import TENTHS, by_layer, mean_beta, of_task, pooled, share_by_tenth
from stockpot.report.figures import FIGURE_WIDTH, FLOOR, MARKERS, PALETTE, short, styled
from stockpot.report.stream_figures import MANY_TASKS, legend_of_tasks, task_colors
from stockpot.results import Results, TaskBetas, TensorBetas

MANY_LAYERS = 7  # beyond these, the figure is wide
MANY_DOTS = 500  # beyond these, only the last task's tensors are dots
_MOST_LABELS = 12
# From nothing to the first colour of the palette: empty cells are the page's ground, light or dark.
_FILLED = LinearSegmentedColormap.from_list("filled", [(*to_rgb(PALETTE[0]), alpha) for alpha in (0.0, 1.0)])


class _TaskProfile(NamedTuple):
    """One task: its number and name, β pooled over the runs, and each layer's mean β in each run (runs × layers)."""

    number: int
    name: str
    betas: TaskBetas
    means: NDArray[np.float64]


def beta_caption(runs: Sequence[Results], where: str = "") -> str:
    """What `betas_by_depth` shows; `where`: of which runs it is the mean."""
    last = [name for k, name in enumerate(_task_names(runs)) if of_task(runs, k)][-1]
    lines = "a line for each task" if len(_task_names(runs)) <= MANY_TASKS else "the last task, and the range of all"
    several = f"; means over n = {len(runs)} runs{where}; band: lowest to highest run" if len(runs) > 1 else ""
    return (
        f"Above: mean β of each layer, {lines}; small dots: single tensors{several}. Below: after {last}, the share "
        "of each layer's weights with β in each tenth; the stronger the colour, the more of them."
    )


@styled
def betas_by_depth(runs: Sequence[Results], title: str = "") -> Figure:
    """Mean β of every layer and tensor by task, above the histograms of the layers after the last task.

    Args:
        runs: Runs of one method with the same tasks, at least one of which chose β.
        title: Written over the figure.
    """
    names = _task_names(runs)
    count = len(names)
    chosen = {k: betas for k in range(count) if (betas := of_task(runs, k))}
    layers = list(dict.fromkeys(layer for betas in chosen.values() for b in betas for layer in by_layer(b.tensors)))
    tasks = [
        _TaskProfile(k, names[k], pooled(betas), np.array([_layer_means(b, layers) for b in betas]))
        for k, betas in chosen.items()
    ]
    width = FIGURE_WIDTH if len(layers) <= MANY_LAYERS else 1.6 * FIGURE_WIDTH
    figure = Figure(figsize=(width, 4.9), layout="constrained")
    profile, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(1.25, 1))
    if count > MANY_TASKS:
        _range(profile, tasks)
    else:
        _tasks(profile, tasks, count)
    _dots(profile, tasks, layers, count)
    if title:
        profile.set_title(title, loc="left")
    profile.set_ylabel("mean β")
    _histograms(figure, histogram, tasks[-1], layers)
    for axes in (profile, histogram):
        axes.set(xlim=(0, len(layers)), ylim=(-0.02, 1.02) if axes is profile else (0, 1))
        axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("trained  0", "", "0.5", "", "anchor  1"))
    profile.grid(axis="y", color=FLOOR, alpha=0.25, linewidth=0.6)
    profile.tick_params(axis="x", length=0, labelbottom=False)
    _name_layers(histogram, layers)
    legend_of_tasks(figure, profile, len(tasks) if count <= MANY_TASKS else count)
    return figure


def _task_names(runs: Sequence[Results]) -> list[str]:
    return max((run.tasks for run in runs), key=len)


def _layer_means(betas: TaskBetas, layers: Sequence[str]) -> list[float]:
    known = {layer: mean_beta(tensors) for layer, tensors in by_layer(betas.tensors).items()}
    return [known.get(layer, np.nan) for layer in layers]


def _tasks(axes: Axes, tasks: Sequence[_TaskProfile], count: int) -> None:
    """A line for each task over the layers, with a band from the lowest run to the highest."""
    colors = task_colors(count)
    for task in tasks:
        x, color = np.arange(task.means.shape[1]) + 0.5, colors[task.number]
        marker = MARKERS[task.number % len(MARKERS)] if count <= len(PALETTE) else "o"
        size = 4.5 if len(x) <= MANY_LAYERS else 2.5
        axes.plot(
            x, task.means.mean(0), color=color, linewidth=1.3, marker=marker, markersize=size, label=short(task.name)
        )
        if len(task.means) > 1:
            axes.fill_between(x, task.means.min(0), task.means.max(0), color=color, alpha=0.18, linewidth=0)


def _range(axes: Axes, tasks: Sequence[_TaskProfile]) -> None:
    """Of many tasks the range of their means, and the last."""
    means = np.array([task.means.mean(0) for task in tasks])
    x = np.arange(means.shape[1]) + 0.5
    low, high = np.nanmin(means, axis=0), np.nanmax(means, axis=0)
    axes.fill_between(x, low, high, color=PALETTE[0], alpha=0.2, linewidth=0, label="lowest to highest task")
    axes.plot(x, means[-1], color=PALETTE[0], linewidth=1.4, marker="o", markersize=3, label=short(tasks[-1].name))


def _dots(axes: Axes, tasks: Sequence[_TaskProfile], layers: Sequence[str], count: int) -> None:
    """The tensors, evenly spread over the width of their layer."""
    if count > MANY_TASKS or sum(len(task.betas.tensors) for task in tasks) > MANY_DOTS:
        tasks = tasks[-1:]
    colors = task_colors(count) if count <= MANY_TASKS else [PALETTE[0]] * count
    for task in tasks:
        grouped = by_layer(task.betas.tensors)
        dots = [
            (layers.index(layer) + (k + 0.5) / len(tensors), tensor.mean)
            for layer, tensors in grouped.items()
            for k, tensor in enumerate(tensors)
        ]
        axes.plot(*zip(*dots, strict=True), ".", color=colors[task.number], markersize=3, alpha=0.6)


def _histograms(figure: Figure, axes: Axes, task: _TaskProfile, layers: Sequence[str]) -> None:
    """A column of ten cells for each layer: the share of its weights with β in each tenth."""
    grouped = by_layer(task.betas.tensors)
    columns: list[list[TensorBetas]] = [grouped.get(layer, []) for layer in layers]
    cells = np.array([share_by_tenth(tensors) if tensors else [0.0] * TENTHS for tensors in columns]).T
    colours: dict[str, Any] = {"cmap": _FILLED, "vmin": 0, "vmax": cells.max() or 1}
    mesh = axes.imshow(
        cells, extent=(0, len(layers), 0, 1), origin="lower", aspect="auto", interpolation="none", **colours
    )
    axes.set_ylabel(f"β after {short(task.name, 12)}")
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=12, format=PercentFormatter(1, 0, symbol=" %"))
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(length=2)
    bar.set_label("of the layer's weights", labelpad=7)


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """Names below the axis, of many layers the first, the last and even steps between, so that none overlap."""
    step = -(-len(layers) // _MOST_LABELS)
    named = [k for k in range(0, len(layers), step) if len(layers) - 1 - k >= step] + [len(layers) - 1]
    texts = [short(layers[k], 20) for k in named]
    slanted = sum(map(len, texts)) > 40
    axes.set_xticks(np.array(named) + 0.5, texts, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    if slanted:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.tick_params(axis="x", length=2 if step > 1 else 0)
    axes.set_xlabel("depth: layers in the model's order")
