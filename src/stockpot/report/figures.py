"""The house style, and the methods of a comparison against each other; importing this file loads matplotlib.

Each figure is one function that returns a matplotlib Figure, without pyplot and its global state. Colours have at least
3:1 contrast on white and on near-black, and markers differ as well as hues; `INK` is the one dark colour, which the
page replaces by that of its text. Names come from users: they are never read as mathematics.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stockpot.methods import role_of
from stockpot.report.formatting import fit, metric_title
from stockpot.report.ranking import ranked
from stockpot.results import Comparison, Estimate

INK = "#24292e"
FLOOR, CEILING = "#7d828a", "#8c6d4f"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c0659a", "#b37a00", "#2e9bd6")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h")
FIGURE_WIDTH = 4.6
MANY_METHODS = 10  # beyond these, rows are closer together
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
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
    "pdf.fonttype": 42,  # TrueType: conferences refuse Type 3
    "svg.hashsalt": "stockpot",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
_SAVED_AS: dict[str, dict[str, Any]] = {
    ".png": {"dpi": 200},
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
}
_P = ParamSpec("_P")


class Look(NamedTuple):
    """The colour and marker of one method, the same in every figure."""

    color: str
    marker: str


def looks(comparison: Comparison) -> dict[str, Look]:
    """Label → its look: grey for the floor, brown for the ceiling, the palette in turn for the other methods."""
    references = {"floor": Look(FLOOR, "|"), "ceiling": Look(CEILING, "d")}
    next_look = map(Look, cycle(PALETTE), cycle(MARKERS))
    return {label: references.get(role_of(s.method)) or next(next_look) for label, s in comparison.methods.items()}


def house_style() -> AbstractContextManager[None]:
    """The house style alone, whatever the user's matplotlibrc sets."""
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_STYLE}
    settings.pop("backend")  # the user's session may have chosen one
    return mpl.rc_context(settings)


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draws in the house style."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with house_style():
            return draw(*args, **kwargs)

    return drawn


def save_figure(figure: Figure, *files: Path) -> None:
    """Writes PNG (200 dots an inch), SVG or PDF, as its name ends, on white; the same bytes for the same figure."""
    with house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, facecolor="white", **_SAVED_AS.get(file.suffix, {}))


def short(name: str, length: int = 16) -> str:
    """A name on one line, cut in the middle; unprintable characters, which SVG forbids, become spaces."""
    return fit("".join(c if c.isprintable() else " " for c in name).strip(), length)


def _frame(axes: Axes, estimates: list[Estimate]) -> None:
    """Limits that show every run, and intervals up to one span beyond: those of few runs are very wide."""
    values = [value for estimate in estimates for value in estimate.values if value is not None]
    if not values:
        return
    low, high = min(values), max(values)
    span = max(high - low, 0.05 * max(abs(low), abs(high)), 1e-6)
    lows = [e.low for e in estimates if e.low is not None] + [low]
    highs = [e.high for e in estimates if e.high is not None] + [high]
    axes.set_xlim(max(min(lows), low - span) - 0.05 * span, min(max(highs), high + span) + 0.05 * span)


@styled
def methods_figure(comparison: Comparison, metric: str = "average_accuracy") -> Figure:
    """The methods in one metric: mean, interval as a bar, every run a small dot."""
    method_looks = looks(comparison)
    rows = [(label, s) for label, s in ranked(comparison) if getattr(s, metric).mean is not None]
    height = 1.0 + (0.36 if len(rows) <= MANY_METHODS else 0.26) * max(1, len(rows))
    figure = Figure(figsize=(FIGURE_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    for y, (label, summary) in enumerate(rows):
        estimate: Estimate = getattr(summary, metric)
        look = method_looks[label]
        seeds = [value for value in estimate.values if value is not None]
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [y, y], color=look.color, linewidth=1.6, solid_capstyle="butt")
        axes.plot(seeds, [y + 0.24] * len(seeds), ".", color=look.color, markersize=4, alpha=0.75)
        assert estimate.mean is not None
        axes.plot(estimate.mean, y, marker=look.marker, color=look.color, markersize=6.5, markeredgewidth=1.5)
    _frame(axes, [getattr(summary, metric) for _, summary in rows])
    axes.set_yticks(range(len(rows)), [f"{short(label, 18)}  (n = {getattr(s, metric).n})" for label, s in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FLOOR, alpha=0.25, linewidth=0.6)
    name = metric_title(metric, comparison.primary)
    lower = metric == "forgetting" or not comparison.higher_is_better
    axes.set_xlabel(f"{name} ({'lower' if lower else 'higher'} is better)")
    return figure


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """The legend of `axes` below the panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels) or 1))


@styled
def stability_plasticity(comparison: Comparison) -> Figure:
    """What was kept against what was learnt: up is less forgetting, right is a better score on tasks just learnt."""
    method_looks = looks(comparison)
    figure = Figure(figsize=(FIGURE_WIDTH, 3.8 + 0.08 * len(comparison.methods)), layout="constrained")
    axes = figure.add_subplot()
    fraction = comparison.unit == "fraction"
    for label, summary in comparison.methods.items():
        x, forgetting = summary.plasticity.mean, summary.forgetting.mean
        if x is not None and forgetting is not None:
            look, y = method_looks[label], 1 - forgetting if fraction else forgetting
            mark: dict[str, Any] = {"marker": look.marker, "color": look.color, "markersize": 6.5}
            axes.plot(x, y, **mark, markeredgewidth=1.5, linestyle="none", label=short(label, 18))
    axes.set_xlabel(f"plasticity: {comparison.primary} on a task just learnt")
    axes.set_ylabel("stability: 1 − forgetting" if fraction else f"forgetting ({comparison.unit}), less is higher")
    axes.grid(color=FLOOR, alpha=0.25, linewidth=0.6)
    axes.margins(0.12)
    if not comparison.higher_is_better:
        axes.invert_xaxis()
    if not fraction:
        axes.invert_yaxis()
    legend_below(figure, axes, 3)
    return figure
