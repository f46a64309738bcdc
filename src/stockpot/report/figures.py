"""The methods of a comparison against each other: one metric of each with its interval, and kept against new."""

from __future__ import annotations

from collections.abc import Container

from stockpot.report.charts import (
    FULL_WIDTH,
    NOT_HIDDEN,
    WIDTH,
    Chart,
    Row,
    Spec,
    category,
    chart,
    distinct,
    hover,
    legend,
    looks,
    mark,
    number,
)
from stockpot.report.formatting import metric_title, score, score_with_interval
from stockpot.report.ranking import ranked
from stockpot.results import Comparison, Estimate

MANY_METHODS = 10  # beyond these, rows are closer together


def methods_figure(
    comparison: Comparison, metric: str = "average_accuracy", labels: Container[str] | None = None, wide: bool = False
) -> Chart:
    """The methods in one metric: mean, interval as a bar, every run a small dot.

    Args:
        comparison: What to draw.
        metric: Which metric.
        labels: The methods to draw, by default all.
        wide: Whether the figure takes a line of the page alone.
    """
    method_looks = looks(comparison)
    measured = [
        (label, s)
        for label, s in ranked(comparison)
        if getattr(s, metric).mean is not None and (labels is None or label in labels)
    ]
    names = dict(zip([label for label, _ in measured], distinct([label for label, _ in measured], 24), strict=True))
    low, high = _frame([getattr(summary, metric) for _, summary in measured])
    means: list[Row] = []
    runs: list[Row] = []
    for label, summary in measured:
        estimate: Estimate = getattr(summary, metric)
        row: Row = {"method": label, "name": f"{names[label]}  (n = {estimate.n})"}
        ends = (estimate.low, estimate.high)
        bar = {} if ends[0] is None or ends[1] is None else {"low": max(ends[0], low), "high": min(ends[1], high)}
        mean = {"mean": estimate.mean, "said": score_with_interval(estimate, comparison.unit)}
        means.append({**row, **bar, **mean})
        runs += [
            {**row, "value": value, "said": f"{score(value, comparison.unit)}, seed {cell.seed}"}
            for cell, value in zip(summary.cells, estimate.values, strict=True)
            if value is not None
        ]
    title = f"{metric_title(metric, comparison.primary)} ({_better(comparison, metric)} is better)"
    order = [row["name"] for row in means]
    place = {
        "field": "name", "type": "nominal", "sort": order,
        "axis": {"title": None, "ticks": False, "domain": False, "labelLimit": 230, "labelPadding": 8},
    }  # fmt: skip
    color = category("method", {label: method_looks[label].color for label in names}, legend=None)
    shape = category("method", {label: method_looks[label].marker for label in names}, legend=None)
    scale = {"domain": [low, high], "nice": False}
    said = hover(name="method", said=metric_title(metric, comparison.primary))
    both: Spec = {"y": place, "color": color, "tooltip": said}
    axis = {"grid": True, "tickCount": 6}
    layers = [
        mark("rule", {**both, "x": number("low", title, scale, axis=axis), "x2": {"field": "high"}}, strokeWidth=2.5,
             transform=[{"filter": "isValid(datum.low)"}]),
        mark("point", {**both, "x": number("value", title, scale)}, size=14, opacity=0.75, yOffset=8,
             data={"values": runs}, transform=[NOT_HIDDEN]),
        mark("point", {**both, "x": number("mean", title, scale), "shape": shape}, size=80),
    ]  # fmt: skip
    parts: Spec = {
        "data": {"values": means},
        "layer": layers,
        "width": FULL_WIDTH - 180 if wide else WIDTH - 60,
        "height": {"step": 30 if len(measured) <= MANY_METHODS else 22},
    }
    return chart(parts, wide, hides=True)


def _better(comparison: Comparison, metric: str) -> str:
    return "lower" if metric == "forgetting" or not comparison.higher_is_better else "higher"


def _frame(estimates: list[Estimate]) -> tuple[float, float]:
    """Limits that show every run, and intervals up to one span beyond: those of few runs are very wide."""
    values = [value for estimate in estimates for value in estimate.values if value is not None]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    span = max(high - low, 0.05 * max(abs(low), abs(high)), 1e-6)
    lows = [e.low for e in estimates if e.low is not None] + [low]
    highs = [e.high for e in estimates if e.high is not None] + [high]
    return max(min(lows), low - span) - 0.05 * span, min(max(highs), high + span) + 0.05 * span


def stability_plasticity(comparison: Comparison) -> Chart:
    """What was kept against what was learnt: up is less forgetting, right is a better score on tasks just learnt."""
    method_looks = looks(comparison)
    fraction = comparison.unit == "fraction"
    rows: list[Row] = []
    for label, summary in comparison.methods.items():
        x, forgetting = summary.plasticity.mean, summary.forgetting.mean
        if x is not None and forgetting is not None:
            y = 1 - forgetting if fraction else forgetting
            said = {"learnt": score(x, comparison.unit), "forgot": score(forgetting, comparison.unit)}
            rows.append({"method": label, "plasticity": x, "stability": y, **said})
    drawn = [row["method"] for row in rows]
    below = legend(drawn)
    encoding = {
        "x": number(
            "plasticity",
            f"plasticity: {comparison.primary} on a task just learnt",
            direction(comparison),
            axis={"tickCount": 5},
        ),
        "y": number(
            "stability",
            "stability: 1 − forgetting" if fraction else f"forgetting ({comparison.unit}), less is higher",
            {"reverse": not fraction, "padding": 14, "nice": False},
        ),
        "color": category("method", {label: method_looks[label].color for label in drawn}, legend=below),
        "shape": category("method", {label: method_looks[label].marker for label in drawn}, legend=below),
        "tooltip": hover(method="method", learnt="plasticity", forgot="forgetting"),
    }
    parts = {"data": {"values": rows}, "width": WIDTH - 40, "height": 260, **mark("point", encoding, size=80)}
    return chart(parts, hides=True)


def direction(comparison: Comparison) -> Spec:
    """A scale that runs to the better score, up or to the right, with room around the outermost marks."""
    return {"reverse": not comparison.higher_is_better, "padding": 14, "nice": False}
