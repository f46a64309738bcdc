"""Figures of a sweep over a run's checkpoints: the past against the new, and the average over the strength."""

from __future__ import annotations

from itertools import cycle

from stockpot.evaluation.metrics import newest_accuracy, past_accuracy
from stockpot.report.charts import (
    CEILING,
    FLOOR,
    FULL_WIDTH,
    INK,
    MARKERS,
    PALETTE,
    STAR,
    Chart,
    Look,
    Row,
    Spec,
    category,
    chart,
    hover,
    legend,
    mark,
    number,
)
from stockpot.report.formatting import opening, score
from stockpot.report.whatif_tables import PLAIN, START, SYMBOLS, is_exact, valued
from stockpot.results import WhatIf, WhatIfMethod

POST_HOC_DASHES = [4, 2]  # dashes


def sweep_looks(whatif: WhatIf) -> dict[str, Look]:
    """The colour and marker of each method, by its position in the file."""
    return dict(zip(whatif.methods, map(Look, cycle(PALETTE), cycle(MARKERS)), strict=False))


def tradeoff_figure(whatif: WhatIf) -> Chart:
    """Earlier tasks against the newest, after the last task: a curve for each method along its strength."""
    plain, start = whatif.plain_metrics, [whatif.start] * len(whatif.start)
    ends = [
        (PLAIN, plain.newest_accuracy, plain.past_accuracy, Look(FLOOR, "square")),
        (START, newest_accuracy(start), past_accuracy(start), Look(CEILING, "diamond")),
    ]
    references: list[Row] = [
        {"method": name, "name": name, "newest": x, "past": y, "strength": "",
         "said_newest": score(x, whatif.unit), "said_past": score(y, whatif.unit)}
        for name, x, y, _ in ends
    ]  # fmt: skip
    looks = sweep_looks(whatif)
    names = {name: _legend_name(name, method) for name, method in whatif.methods.items()}
    shown = {names[name]: looks[name] for name in names} | {name: look for name, _, _, look in ends}
    scale = {"reverse": not whatif.plain.higher_is_better, "padding": 16, "nice": False}
    below = legend(list(shown), FULL_WIDTH - 80)
    encoding: Spec = {
        "x": number("newest", f"{whatif.primary} on the newest task", scale),
        "y": number("past", f"mean {whatif.primary} on earlier tasks", scale),
        "color": category("name", {name: look.color for name, look in shown.items()}, legend=below),
        "tooltip": hover(name="method", strength="strength", said_past="earlier tasks", said_newest="newest task"),
    }
    shape = {"shape": category("name", {name: look.marker for name, look in shown.items()}, legend=below)}
    layers = _curve(encoding, shape)
    layers.append(mark("point", {**encoding, **shape}, size=110, data={"values": references}))
    rows = [row for name in names for row in _rows(whatif, name, names[name])]
    return chart({"data": {"values": rows}, "layer": layers, "width": FULL_WIDTH - 80, "height": 340}, wide=True)


def averages_figure(whatif: WhatIf) -> Chart:
    """The average after the last task over the strength, a curve for each method."""
    looks, unit = sweep_looks(whatif), whatif.unit
    names = {name: f"{opening(name)}{_symbol(method)}" for name, method in whatif.methods.items()}
    shown = {names[name]: looks[name] for name in names}
    plain = whatif.plain_metrics.average_accuracy
    if plain is not None:
        shown[PLAIN] = Look(FLOOR, "square")
    better = "higher" if whatif.plain.higher_is_better else "lower"
    below = legend(list(shown), FULL_WIDTH - 80)
    y = number("average", f"average {whatif.primary} ({better} is better)", {"padding": 12, "nice": False})
    encoding: Spec = {
        "x": number("value", "strength", {"padding": 12, "nice": False}, axis={"tickCount": 6}),
        "y": y,
        "color": category("name", {name: look.color for name, look in shown.items()}, legend=below),
        "tooltip": hover(name="method", strength="strength", said_average="average"),
    }
    shape = {"shape": category("name", {name: look.marker for name, look in shown.items()}, legend=below)}
    swept = [row for name in names if whatif.methods[name].key for row in _rows(whatif, name, names[name])]
    levels: list[Row] = [
        row for name in names if whatif.methods[name].key is None for row in _rows(whatif, name, names[name])
    ]
    across = {key: encoding[key] for key in ("y", "color", "tooltip")}
    layers = [mark("rule", across, data={"values": levels}, strokeWidth=1.8, strokeDash=[2, 3])] if levels else []
    if plain is not None:
        row = {"name": PLAIN, "strength": "", "average": plain, "said_average": score(plain, unit)}
        layers.append(mark("rule", across, data={"values": [row]}, strokeWidth=1.6))
    layers += _curve(encoding, shape)
    return chart({"data": {"values": swept}, "layer": layers, "width": FULL_WIDTH - 80, "height": 260}, wide=True)


def _symbol(method: WhatIfMethod) -> str:
    return f" ({SYMBOLS.get(method.key, method.key)})" if method.key else ""


def _legend_name(name: str, method: WhatIfMethod) -> str:
    post_hoc = "" if all(map(is_exact, method.points)) else ", post-hoc"
    knee = "" if method.knee is None else f", knee {valued(method, method.points[method.knee])}"
    return f"{opening(name)}{post_hoc}{knee}"


def _rows(whatif: WhatIf, name: str, written: str) -> list[Row]:
    """A method's points in order of strength."""
    method, unit = whatif.methods[name], whatif.unit
    post_hoc = not all(map(is_exact, method.points))
    rows: list[Row] = []
    for k, point in enumerate(method.points):
        m = point.metrics
        assert m.newest_accuracy is not None and m.past_accuracy is not None, "every task was evaluated"
        rows.append({
            "method": name, "name": written, "place": k, "value": point.value or 0.0, "strength": valued(method, point),
            "newest": m.newest_accuracy, "past": m.past_accuracy, "average": m.average_accuracy, "post_hoc": post_hoc,
            "best": k == method.best, "knee": k == method.knee, "said_newest": score(m.newest_accuracy, unit),
            "said_past": score(m.past_accuracy, unit), "said_average": score(m.average_accuracy, unit),
        })  # fmt: skip
    return rows


def _curve(encoding: Spec, shape: Spec) -> list[Spec]:
    """The methods' points in order of strength: a star at the best value, a ring at the knee; dashed if post-hoc."""
    line = {key: encoding[key] for key in ("x", "y", "color")} | {"order": {"field": "place"}}
    dashes = {
        "condition": {"test": "datum.post_hoc", "value": POST_HOC_DASHES}, "value": [1, 0],
    }  # fmt: skip
    no_hover = {key: encoding[key] for key in ("x", "y", "color")}
    return [
        mark("line", {**line, "strokeDash": dashes, "detail": {"field": "post_hoc"}}, strokeWidth=1.5, aria=False),
        mark("point", {**encoding, **shape}, size=38),
        mark("point", no_hover, shape="circle", filled=False, size=230, strokeWidth=1.8,
             transform=[{"filter": "datum.knee"}], aria=False),
        mark("point", encoding, shape=STAR, size=170, stroke=INK, strokeWidth=0.7,
             transform=[{"filter": "datum.best"}]),
    ]  # fmt: skip
