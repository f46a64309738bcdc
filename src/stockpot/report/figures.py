"""The house style, and the methods of a comparison against each other; importing this file loads matplotlib.

Each figure is one function that returns a matplotlib Figure: no pyplot and so no global state. Drawn with mid-tone
colours of at least 3:1 contrast on white and on near-black, told apart by marker as well as by hue; `INK` is the one
dark colour, which the page replaces by that of its text. Names come from users: they are never read as mathematics.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stockpot.methods import role_of
from stockpot.report.formatting import fit, metric_title, ranked
from stockpot.report.placement import Segment, place_labels
from stockpot.results import Comparison, Estimate

INK = "#24292e"
FLOOR, CEILING = "#7d828a", "#8c6d4f"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c0659a", "#b37a00", "#2e9bd6")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h")
FIGURE_WIDTH = 4.6
MANY_METHODS = 10  # methods, beyond which figures grow
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
    "svg.hashsalt": "stockpot",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
_P = ParamSpec("_P")


class Look(NamedTuple):
    """The colour and marker of one method, the same in every figure."""

    color: str
    marker: str


def looks(comparison: Comparison) -> dict[str, Look]:
    """Grey for the floor, brown for the ceiling, the palette for the methods in the order of the comparison."""
    given: dict[str, Look] = {}
    others = 0
    for label, summary in comparison.methods.items():
        role = role_of(summary.method)
        if role != "rival":
            given[label] = Look(FLOOR, "|") if role == "floor" else Look(CEILING, "d")
        else:
            given[label] = Look(PALETTE[others % len(PALETTE)], MARKERS[others % len(MARKERS)])
            others += 1
    return given


def house_style() -> AbstractContextManager[None]:
    """The house style alone, whatever the user's matplotlibrc says."""
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_STYLE}
    settings.pop("backend")  # which the user's own session may have chosen
    return mpl.rc_context(settings)


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draws in the house style."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with house_style():
            return draw(*args, **kwargs)

    return drawn


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
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


def _whisker(axes: Axes, at: float, estimate: Estimate, look: Look, horizontal: bool = True) -> None:
    if estimate.low is None or estimate.high is None:
        return
    ends = ([estimate.low, estimate.high], [at, at])
    axes.plot(*(ends if horizontal else ends[::-1]), color=look.color, linewidth=1.6, solid_capstyle="butt")


def _frame(axes: Axes, estimates: list[Estimate]) -> None:
    """Room for every run, and for intervals up to as much again on either side: few runs have very wide ones."""
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
    """The methods in one metric: mean, interval as a whisker, every seed a small dot."""
    given = looks(comparison)
    rows = [(label, s) for label, s in ranked(comparison) if getattr(s, metric).mean is not None]
    figure = Figure(
        figsize=(FIGURE_WIDTH, 1.0 + (0.36 if len(rows) <= MANY_METHODS else 0.26) * max(1, len(rows))),
        layout="constrained",
    )
    axes = figure.add_subplot()
    for y, (label, summary) in enumerate(rows):
        estimate: Estimate = getattr(summary, metric)
        look = given[label]
        seeds = [value for value in estimate.values if value is not None]
        _whisker(axes, y, estimate, look)
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


def _one_minus(estimate: Estimate) -> Estimate:
    mean, low, high = (None if v is None else 1 - v for v in (estimate.mean, estimate.high, estimate.low))
    return Estimate(mean=mean, low=low, high=high, n=estimate.n, values=[])


@styled
def stability_plasticity(comparison: Comparison) -> Figure:
    """What was kept against what was learnt: up is less forgetting, right is a better score on tasks just learnt."""
    given = looks(comparison)
    many = len(comparison.methods) > MANY_METHODS
    figure = Figure(figsize=(FIGURE_WIDTH, 6.0 if many else 3.8), layout="constrained")
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
        if not many:  # whose bars would hide each other's marks; the figures of one metric have them
            _whisker(axes, y.mean, x, look)
            _whisker(axes, x.mean, y, look, horizontal=False)
        axes.plot(x.mean, y.mean, marker=look.marker, color=look.color, markersize=6.5, markeredgewidth=1.5)
        points.append((x.mean, y.mean))
        if x.low is not None and x.high is not None and not many:
            whiskers.append(((x.low, y.mean), (x.high, y.mean)))
        if y.low is not None and y.high is not None and not many:
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
