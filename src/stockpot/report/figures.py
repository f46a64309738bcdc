"""The figures, each one function that returns a matplotlib Figure; importing this file loads matplotlib.

No pyplot and so no global state. Drawn with mid-tone colours of at least 3:1 contrast on white and on near-black, told
apart by marker as well as by hue; `INK` is the one dark colour, which the page replaces by that of its text. Names come
from users: they are never read as mathematics.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stockpot.report.formatting import METRICS, fit, ranked, role, score
from stockpot.report.placement import Segment, place_labels
from stockpot.results import Comparison, Estimate, Results, Scores

INK = "#24292e"
FLOOR, CEILING = "#7d828a", "#8c6d4f"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c0659a", "#b37a00", "#2e9bd6")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h")
WIDTH = 4.6
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "stockpot",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
P = ParamSpec("P")


class Look(NamedTuple):
    """The colour and marker of one method, the same in every figure."""

    color: str
    marker: str


def looks(comparison: Comparison) -> dict[str, Look]:
    """Grey for the floor, brown for the ceiling, the palette for the methods in the order of the comparison."""
    given: dict[str, Look] = {}
    others = 0
    for label, summary in comparison.methods.items():
        kind = role(summary.method)
        if kind:
            given[label] = Look(FLOOR, "|") if kind == "floor" else Look(CEILING, "d")
        else:
            given[label] = Look(PALETTE[others % len(PALETTE)], MARKERS[others % len(MARKERS)])
            others += 1
    return given


def house_style() -> AbstractContextManager[None]:
    """The house style alone, whatever the user's matplotlibrc says."""
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_STYLE}
    settings.pop("backend")  # which the user's own session may have chosen
    return mpl.rc_context(settings)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in the house style."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with house_style():
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Writes `stem.png` (200 dots an inch) and `stem.svg`, both on white, the same bytes for the same figure."""
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    with house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(png, dpi=200, facecolor="white")
        figure.savefig(svg, facecolor="white", metadata={"Date": None})
    return png, svg


def short(name: str, length: int = 16) -> str:
    """A name on one line, cut in the middle; unprintable characters, which SVG forbids, become blanks."""
    return fit("".join(c if c.isprintable() else " " for c in name).strip(), length)


def _array(rows: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64, ndmin=2)


def _limits(values: NDArray[np.float64], unit: str) -> tuple[float, float]:
    """0 to 1 for fractions, else the range of what was measured."""
    measured = values[np.isfinite(values)]
    if unit == "fraction" or not measured.size:
        return 0.0, 1.0
    low, high = float(measured.min()), float(measured.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _heat(axes: Axes, R: NDArray[np.float64], limits: tuple[float, float], scores: Scores, values: bool) -> Any:
    """Draws one matrix, brighter is better; unmeasured cells stay blank."""
    K, columns = R.shape
    colormap = mpl.colormaps["viridis" if scores.higher_is_better else "viridis_r"]
    mesh = axes.pcolormesh(np.ma.masked_invalid(R), cmap=colormap, vmin=limits[0], vmax=limits[1], linewidth=0)
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
    """Names while there is room for them, else numbers."""
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
    width = max(WIDTH, 1.6 + 0.34 * columns)
    cell = min(0.62, (width - 2.2) / columns)
    figure = Figure(figsize=(width, 0.95 + cell * K), layout="constrained")
    axes = figure.add_subplot()
    mesh = _heat(axes, R, _limits(R, scores.unit), scores, values=True)
    _task_ticks(axes, results.tasks[:columns], K)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)
    bar.set_label(results.primary)
    return figure


def _trajectory(
    axes: Axes, scores: Scores, R: NDArray[np.float64], initial: Sequence[float], tasks: Sequence[str]
) -> None:
    """One line a task over the stages, a dot where the task has just been learnt."""
    K, columns = R.shape
    named = columns <= len(PALETTE)
    shades = mpl.colormaps["cividis"](np.linspace(0.35, 0.74, columns))
    for j in range(columns):
        color = PALETTE[j] if named else shades[j]
        line = [initial[j], *R[:, j]]
        axes.plot(range(K + 1), line, color=color, linewidth=1.4, marker=".", markersize=3, label=short(tasks[j]))
        if j < K:
            axes.plot(j + 1, R[j, j], marker=MARKERS[j % len(MARKERS)] if named else "o", color=color, markersize=6)
    axes.set_xlim(-0.15, K + 0.15)
    axes.set_xticks(range(0, K + 1, 1 if K <= 10 else 5))
    if scores.unit == "fraction":
        axes.set_ylim(-0.03, 1.03)
    axes.grid(axis="y", color=FLOOR, alpha=0.25, linewidth=0.6)


def _legend(figure: Figure, axes: Axes, tasks: int) -> None:
    """Below the panels, in even rows; of many tasks only the first and the last, between which the shades run."""
    handles, labels = axes.get_legend_handles_labels()
    if tasks > len(PALETTE):
        keep = [0, tasks - 1, *range(tasks, len(handles))]
        handles, labels = [handles[k] for k in keep], [labels[k] for k in keep]
    most = min(4, max(1, 48 // (3 + max(map(len, labels)))))
    rows = -(-len(labels) // most)
    figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows))


@styled
def over_time(results: Results) -> Figure:
    """Each task's score over the stream, from before the first task on; controls dashed."""
    scores = results.scores[results.primary]
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    R = _array(scores.matrix)
    _trajectory(axes, scores, R, _array([scores.initial])[0].tolist(), results.tasks)
    styles = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
    for index, (name, values) in enumerate(scores.controls.items()):
        line = _array([values])[0]
        axes.plot(range(len(line)), line, color=FLOOR, linestyle=styles[index % 3], label=f"{short(name)} (control)")
    axes.set(xlabel="tasks learnt", ylabel=results.primary)
    _legend(figure, axes, R.shape[1])
    return figure


def _whisker(axes: Axes, at: float, estimate: Estimate, look: Look, horizontal: bool = True) -> None:
    if estimate.low is None or estimate.high is None:
        return
    ends = ([estimate.low, estimate.high], [at, at])
    axes.plot(*(ends if horizontal else ends[::-1]), color=look.color, linewidth=1.6, solid_capstyle="butt")


@styled
def methods(comparison: Comparison, metric: str = "average_accuracy") -> Figure:
    """The methods in one metric: mean, interval as a whisker, every seed a small dot."""
    given = looks(comparison)
    rows = [(label, s) for label, s in ranked(comparison) if getattr(s, metric).mean is not None]
    figure = Figure(figsize=(WIDTH, 1.0 + 0.36 * max(1, len(rows))), layout="constrained")
    axes = figure.add_subplot()
    for y, (label, summary) in enumerate(rows):
        estimate: Estimate = getattr(summary, metric)
        look = given[label]
        seeds = [value for value in estimate.values if value is not None]
        _whisker(axes, y, estimate, look)
        axes.plot(seeds, [y + 0.24] * len(seeds), ".", color=look.color, markersize=4, alpha=0.75)
        assert estimate.mean is not None
        axes.plot(estimate.mean, y, marker=look.marker, color=look.color, markersize=6.5, markeredgewidth=1.5)
    axes.set_yticks(range(len(rows)), [f"{short(label, 18)}  (n = {getattr(s, metric).n})" for label, s in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FLOOR, alpha=0.25, linewidth=0.6)
    name = METRICS[metric][0]
    lower = metric == "forgetting" or not comparison.higher_is_better
    axes.set_xlabel(f"{name} ({'lower' if lower else 'higher'} is better)")
    return figure


def _one_minus(estimate: Estimate) -> Estimate:
    mean, low, high = (None if v is None else 1 - v for v in (estimate.mean, estimate.high, estimate.low))
    return Estimate(mean=mean, low=low, high=high, n=estimate.n, values=[])


@styled
def stability_plasticity(comparison: Comparison) -> Figure:
    """What was kept against what was learnt: up is less forgetting, right is a better score on tasks just learnt."""
    given = looks(comparison)
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.add_subplot()
    fraction = comparison.unit == "fraction"
    points: list[tuple[float, float]] = []
    names: list[str] = []
    colors: list[str] = []
    whiskers: list[Segment] = []
    for label, summary in comparison.methods.items():
        x, lost = summary.plasticity, summary.forgetting
        if x.mean is None or lost.mean is None:
            continue
        y = _one_minus(lost) if fraction else lost
        assert y.mean is not None
        look = given[label]
        _whisker(axes, y.mean, x, look)
        _whisker(axes, x.mean, y, look, horizontal=False)
        axes.plot(x.mean, y.mean, marker=look.marker, color=look.color, markersize=6.5, markeredgewidth=1.5)
        points.append((x.mean, y.mean))
        if x.low is not None and x.high is not None:
            whiskers.append(((x.low, y.mean), (x.high, y.mean)))
        if y.low is not None and y.high is not None:
            whiskers.append(((x.mean, y.low), (x.mean, y.high)))
        names.append(short(label, 18))
        colors.append(look.color)
    axes.set_xlabel(f"plasticity: {comparison.primary} on a task just learnt")
    axes.set_ylabel("stability: 1 − forgetting" if fraction else f"forgetting ({comparison.unit}), less is higher")
    axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    axes.margins(0.12)
    if not comparison.higher_is_better:
        axes.invert_xaxis()
    if not fraction:
        axes.invert_yaxis()
    place_labels(axes, points, names, colors, whiskers)
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
    """Panels two to a row on shared axes, the last row's empty place left out."""
    rows = (count + 1) // 2
    figure = Figure(figsize=(WIDTH, 0.7 + height * rows), layout="constrained")
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
    """Each task's score over the stream, one panel a method, means over its seeds, axes shared."""
    panels = _panels(comparison, cells)
    figure, grid = _grid(len(panels), 1.5)
    for axes, (label, runs) in zip(grid, panels, strict=True):
        scores, R, initial = _mean_matrix(runs)
        _trajectory(axes, scores, R, initial, comparison.tasks)
        axes.set_title(f"{short(label, 20)} (n = {len(runs)})", loc="left")
    for axes in grid[-2:]:
        axes.set_xlabel("tasks learnt")
    figure.supylabel(comparison.primary, fontsize=9)
    _legend(figure, grid[0], len(comparison.tasks))
    return figure


@styled
def mean_matrices(comparison: Comparison, cells: dict[str, list[Results]]) -> Figure:
    """The mean matrix of every method over its seeds, on one colour scale."""
    panels = [(label, len(runs), *_mean_matrix(runs)) for label, runs in _panels(comparison, cells)]
    limits = _limits(np.concatenate([R.ravel() for *_, R, _ in panels]), comparison.unit)
    figure, grid = _grid(len(panels), 2.0)
    for axes, (label, n, scores, R, _) in zip(grid, panels, strict=True):
        _heat(axes, R, limits, scores, values=R.shape[1] <= 6)
        axes.set_title(f"{short(label, 17)} (n = {n})", loc="left")
        every = 1 if R.shape[1] <= 10 else 5
        ticks = np.arange(0, R.shape[1], every)
        axes.set_xticks(ticks + 0.5, [str(j + 1) for j in ticks])
        axes.set_yticks(ticks + 0.5, [str(j + 1) for j in ticks])
    bar = figure.colorbar(grid[0].collections[0], ax=grid, location="bottom", shrink=0.6, aspect=40)
    bar.outline.set_visible(False)
    bar.set_label(comparison.primary)
    for axes in grid[-2:]:
        axes.set_xlabel("score on task")
    figure.supylabel("after learning task", fontsize=9)
    return figure
