"""A stream task by task: heat maps and trajectories of one run, and of the methods of a comparison side by side."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stockpot.report.figures import FIGURE_WIDTH, FLOOR, MARKERS, PALETTE, short, styled
from stockpot.report.formatting import score
from stockpot.report.ranking import ranked
from stockpot.results import Comparison, Results, Scores

MANY_TASKS = 16  # beyond these, tasks have no lines and cells no numbers


def _array(rows: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64, ndmin=2)


def _limits(values: NDArray[np.float64], unit: str) -> tuple[float, float]:
    """0 to 1 for fractions, else the range of what was measured."""
    measured = values[np.isfinite(values)]
    if unit == "fraction" or not measured.size:
        return 0.0, 1.0
    low, high = float(measured.min()), float(measured.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _every(count: int) -> int:
    """The step between numbers on an axis that leaves at most a dozen of them."""
    return next(step for step in (1, 5, 10, 25, 50, 100, 250, 500, count) if count <= 10 * step)


def _numbers(count: int) -> tuple[NDArray[np.float64], list[str]]:
    """Positions and texts of the task numbers on an axis of cells: the first, then even steps."""
    step = _every(count)
    numbers = [*range(1, count + 1)] if step == 1 else [1, *range(step, count + 1, step)]
    return np.array(numbers) - 0.5, list(map(str, numbers))


def _heat(axes: Axes, R: NDArray[np.float64], limits: tuple[float, float], scores: Scores, values: bool) -> Any:
    """Draws one matrix: brighter is better, cells that were not measured stay blank."""
    K, columns = R.shape
    colormap = mpl.colormaps["viridis" if scores.higher_is_better else "viridis_r"]
    colours: dict[str, Any] = {"cmap": colormap, "vmin": limits[0], "vmax": limits[1]}
    mesh: Any
    if columns > MANY_TASKS:  # one picture instead of a path for every cell
        mesh = axes.imshow(np.ma.masked_invalid(R), extent=(0, columns, K, 0), interpolation="none", **colours)
    else:
        mesh = axes.pcolormesh(np.ma.masked_invalid(R), linewidth=0, **colours)
    axes.set(xlim=(0, columns), ylim=(K, 0), aspect="equal")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    fontsize = 8.0 if columns <= 8 else 6.5
    for i, j in np.argwhere(np.isfinite(R)) if values else ():
        red, green, blue, _ = colormap((R[i, j] - limits[0]) / (limits[1] - limits[0]))
        color = "#ffffff" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "#111111"
        text = score(float(R[i, j]), scores.unit)
        if scores.unit == "fraction":
            text = f"{R[i, j]:.2f}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=color, fontsize=fontsize)
    return mesh


def _task_ticks(axes: Axes, tasks: Sequence[str], rows: int, after: bool = True) -> None:
    """Task names if there is room, else numbers; of many tasks not every number."""
    if len(tasks) > MANY_TASKS:
        axes.set_xticks(*_numbers(len(tasks)))
        axes.set_yticks(*_numbers(rows))
        axes.set(xlabel="score on task", ylabel="after learning task" if after else "")
        return
    named = len(tasks) <= 10
    columns = [short(task, 12) if named else str(j + 1) for j, task in enumerate(tasks)]
    slanted = named and sum(map(len, columns)) > 36
    axes.set_xticks(
        np.arange(len(tasks)) + 0.5, columns, rotation=35 if slanted else 0, ha="right" if slanted else "center"
    )
    if slanted:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.set_yticks(np.arange(rows) + 0.5, [short(task, 14) for task in tasks[:rows]])
    axes.set(xlabel="score on", ylabel="after learning" if after else "")


@styled
def matrix(results: Results) -> Figure:
    """The matrix of the primary score as a heat map: rows after learning a task, columns the task scored."""
    scores = results.scores[results.primary]
    R = _array(scores.matrix)
    K, columns = R.shape
    many = columns > MANY_TASKS
    width = 1.5 * FIGURE_WIDTH if many else max(FIGURE_WIDTH, 1.6 + 0.34 * columns)
    cell = min(0.62, (width - 2.2) / columns)
    figure = Figure(figsize=(width, 0.95 + cell * K), layout="constrained")
    axes = figure.add_subplot()
    mesh = _heat(axes, R, _limits(R, scores.unit), scores, values=not many)
    _task_ticks(axes, results.tasks[:columns], K)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)
    bar.set_label(results.primary)
    return figure


def _trajectory(
    axes: Axes, scores: Scores, R: NDArray[np.float64], initial: Sequence[float], tasks: Sequence[str]
) -> None:
    """A line for each task over the stages, a large mark where it was just learnt; of many tasks, a summary."""
    K, columns = R.shape
    if columns > MANY_TASKS:
        _summary(axes, scores, R)
    else:
        _lines(axes, R, initial, tasks)
    axes.set_xlim(-0.15, K + 0.15)
    axes.set_xticks(range(0, K + 1, _every(K)))
    if scores.unit == "fraction":
        axes.set_ylim(-0.03, 1.03)
    axes.grid(axis="y", color=FLOOR, alpha=0.25, linewidth=0.6)


def _summary(axes: Axes, scores: Scores, R: NDArray[np.float64]) -> None:
    """After each task: the mean of those learnt so far, the range from worst to best, and the one just learnt."""
    K = len(R)
    stages, learnt = range(1, K + 1), [row[: i + 1][np.isfinite(row[: i + 1])] for i, row in enumerate(R)]
    every = [(np.nan,) * 3 if not row.size else (row.min(), row.mean(), row.max()) for row in learnt]
    low, mean, high = np.array(every, dtype=np.float64).reshape(K, 3).T
    newest = [R[i, i] for i in range(min(R.shape))]
    axes.fill_between(stages, low, high, color=PALETTE[0], alpha=0.2, linewidth=0, label="worst to best task learnt")
    axes.plot(stages, mean, color=PALETTE[0], linewidth=1.6, label="mean of the tasks learnt")
    axes.plot(stages[: len(newest)], newest, ".", color=PALETTE[1], markersize=3, label="the task just learnt")


def task_colors(count: int) -> list[Any]:
    """A colour for each task, the same in every figure: the palette, or of more tasks shades from first to last."""
    return list(PALETTE[:count] if count <= len(PALETTE) else mpl.colormaps["cividis"](np.linspace(0.35, 0.74, count)))


def _lines(axes: Axes, R: NDArray[np.float64], initial: Sequence[float], tasks: Sequence[str]) -> None:
    K, columns = R.shape
    named = columns <= len(PALETTE)
    for j, color in enumerate(task_colors(columns)):
        line = [initial[j], *R[:, j]]
        axes.plot(range(K + 1), line, color=color, linewidth=1.4, marker=".", markersize=3, label=short(tasks[j]))
        if j < K:
            axes.plot(j + 1, R[j, j], marker=MARKERS[j % len(MARKERS)] if named else "o", color=color, markersize=6)


def legend_of_tasks(figure: Figure, axes: Axes, tasks: int) -> None:
    """A legend below the panels, in even rows; of many tasks only the first and the last: shades run between them."""
    handles, labels = axes.get_legend_handles_labels()
    if len(PALETTE) < tasks <= MANY_TASKS:
        keep = [0, tasks - 1, *range(tasks, len(handles))]
        handles, labels = [handles[k] for k in keep], [labels[k] for k in keep]
    most = min(4, max(1, 48 // (3 + max(map(len, labels)))))
    rows = -(-len(labels) // most)
    figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows))


@styled
def over_time(results: Results) -> Figure:
    """Each task's score over the stream, from before the first task on; controls dashed."""
    scores = results.scores[results.primary]
    figure = Figure(figsize=(FIGURE_WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    R = _array(scores.matrix)
    _trajectory(axes, scores, R, _array([scores.initial])[0].tolist(), results.tasks)
    styles = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
    for index, (name, values) in enumerate(scores.controls.items()):
        line = _array([values])[0]
        axes.plot(range(len(line)), line, color=FLOOR, linestyle=styles[index % 3], label=f"{short(name)} (control)")
    axes.set(xlabel="tasks learnt", ylabel=results.primary)
    legend_of_tasks(figure, axes, R.shape[1])
    return figure


def _mean_matrix(runs: Sequence[Results]) -> tuple[Scores, NDArray[np.float64], list[float]]:
    """The mean over seeds, cell by cell; a cell that no seed measured stays blank."""
    scores = [results.scores[results.primary] for results in runs]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        R = np.nanmean(np.stack([_array(s.matrix) for s in scores]), axis=0)
        initial = np.nanmean(np.stack([_array([s.initial])[0] for s in scores]), axis=0)
    return scores[0], R, initial.tolist()


def _grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels on shared axes, two to a row."""
    rows = (count + 1) // 2
    figure = Figure(figsize=(FIGURE_WIDTH, 0.7 + height * rows), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_visible(False)
    for last in axes[max(0, count - 2) : count]:
        last.tick_params(labelbottom=True)
    return figure, axes[:count]


def _panels(comparison: Comparison, cells: dict[str, list[Results]]) -> list[tuple[str, list[Results]]]:
    return [(label, cells[label]) for label, _ in ranked(comparison) if cells.get(label)]


@styled
def tasks_over_time(comparison: Comparison, cells: dict[str, list[Results]]) -> Figure:
    """Each task's score over the stream: a panel for each method, means over its seeds, shared axes."""
    panels = _panels(comparison, cells)
    figure, grid = _grid(len(panels), 1.5)
    for axes, (label, runs) in zip(grid, panels, strict=True):
        scores, R, initial = _mean_matrix(runs)
        _trajectory(axes, scores, R, initial, comparison.tasks)
        axes.set_title(f"{short(label, 20)} (n = {len(runs)})", loc="left")
    for axes in grid[-2:]:
        axes.set_xlabel("tasks learnt")
    figure.supylabel(comparison.primary, fontsize=9)
    legend_of_tasks(figure, grid[0], len(comparison.tasks))
    return figure


@styled
def mean_matrices(comparison: Comparison, cells: dict[str, list[Results]]) -> Figure:
    """The mean matrix of every method over its seeds, on one colour scale."""
    panels = [(label, len(runs), *_mean_matrix(runs)) for label, runs in _panels(comparison, cells)]
    limits = _limits(np.concatenate([R.ravel() for *_, R, _ in panels]), comparison.unit)
    figure, grid = _grid(len(panels), 2.0)
    for axes, (label, n, scores, R, _) in zip(grid, panels, strict=True):
        mesh = _heat(axes, R, limits, scores, values=R.shape[1] <= 6)
        axes.set_title(f"{short(label, 17)} (n = {n})", loc="left")
        axes.set_xticks(*_numbers(R.shape[1]))
        axes.set_yticks(*_numbers(R.shape[1]))
    bar = figure.colorbar(mesh, ax=grid, location="bottom", shrink=0.6, aspect=40)
    bar.outline.set_visible(False)
    bar.set_label(comparison.primary)
    for axes in grid[-2:]:
        axes.set_xlabel("score on task")
    figure.supylabel("after learning task", fontsize=9)
    return figure
