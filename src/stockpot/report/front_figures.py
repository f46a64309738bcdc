"""Figures of the past-versus-new front: all methods at once, and each in front of the others."""

from __future__ import annotations

from stockpot.methods import role_of
from stockpot.report.charts import (
    FLOOR,
    FULL_WIDTH,
    NOT_HIDDEN,
    Chart,
    Look,
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
    short,
)
from stockpot.report.figures import direction
from stockpot.report.formatting import plain_number, score
from stockpot.report.front_facts import FEW_LINES, curves, place_of, reference_places, undominated
from stockpot.results import Comparison, FrontPoint

_MOST_OTHERS = 16  # lines behind a panel's own
_PLACE = ("newest", "past", "place")


def front_figure(comparison: Comparison) -> Chart:
    """Earlier tasks against the newest, a line for each method through its strengths."""
    lines, method_looks = curves(comparison), looks(comparison)
    references = _references(comparison)
    shown = {label: _look(method_looks, label) for label in [*lines, *(row["method"] for row in references)]}
    names = dict(zip(shown, distinct([_name(label, lines.get(label)) for label in shown]), strict=True))
    front = {id(point) for point in undominated(comparison)}
    rows = [
        {**row, "name": names[label]} for label, line in lines.items() for row in _rows(comparison, label, line, front)
    ]
    references = [{**row, "name": names[row["method"]]} for row in references]
    encoding = _encoding(comparison, {names[label]: look for label, look in shown.items()})
    layers = [_stairs(comparison, encoding), *_curve(encoding, labelled=len(lines) <= FEW_LINES)]
    layers.append(mark("point", encoding, size=130, data={"values": references}, transform=[NOT_HIDDEN]))
    parts = {"data": {"values": rows}, "layer": layers, "width": FULL_WIDTH - 80, "height": 380}
    return chart(parts, wide=True, hides=True)


def front_panels(comparison: Comparison) -> Chart:
    """A panel for each method: its own line in colour, the values at its ends, the lines of others in grey."""
    lines, method_looks = curves(comparison), looks(comparison)
    titles = dict(zip(lines, distinct([_name(label, line) for label, line in lines.items()]), strict=True))
    front = {id(point) for point in undominated(comparison)}
    rows = {label: _rows(comparison, label, line, front) for label, line in lines.items()}
    in_front = [{**row, "panel": titles[label], "name": titles[label]} for label in lines for row in rows[label]]
    encoding = _encoding(comparison, {titles[label]: _look(method_looks, label) for label in lines}, small=True)
    grey = {axis: encoding[axis] for axis in ("x", "y")}
    grey |= {"detail": {"field": "method", "type": "nominal"}, "order": {"field": "place"}}
    layers = [_stairs(comparison, encoding), *_curve(encoding, labelled=True)]
    if len(lines) <= _MOST_OTHERS:
        others = {"values": [{key: row[key] for key in ("method", *_PLACE)} for label in lines for row in rows[label]]}
        layers.insert(0, mark("line", grey, data=others, color=FLOOR, opacity=0.35, strokeWidth=0.8, aria=False))
    across = min(4, len(lines))
    parts: Spec = {
        "data": {"values": in_front},
        "facet": {"field": "panel", "type": "nominal", "sort": list(titles.values()), "header": {"title": None}},
        "columns": across,
        "resolve": {"axis": {"x": "independent"}},
        "spec": {"width": (FULL_WIDTH - 40) // across - 36, "height": 120, "layer": layers},
    }
    return chart(parts, wide=True, hides=True)


def _name(label: str, line: list[FrontPoint] | None) -> str:
    return f"{short(label, 24)} ({line[0].key})" if line else short(label, 24)


def _look(method_looks: dict[str, Look], label: str) -> Look:
    return method_looks.get(label, Look(FLOOR, "circle"))


def _rows(comparison: Comparison, label: str, line: list[FrontPoint], front: set[int]) -> list[Row]:
    """A method's points in order of strength, those on the Pareto front marked, and the values at both ends."""
    rows: list[Row] = []
    for k, point in enumerate(line):
        x, y = place_of(point)
        end = {0: "low", len(line) - 1: "high"}.get(k, "") if len(line) > 1 else "low"
        rows.append({
            "method": label, "newest": x, "past": y, "place": k, "end": end, "front": id(point) in front,
            "strength": plain_number(point.value), "said_newest": score(x, comparison.unit),
            "said_past": score(y, comparison.unit),
        })  # fmt: skip
    return rows


def _references(comparison: Comparison) -> list[Row]:
    """Floor and ceiling, which have no strength."""
    labels = [label for label, summary in comparison.methods.items() if role_of(summary.method) != "rival"]
    return [
        {"method": label, "newest": x, "past": y, "strength": "",
         "said_newest": score(x, comparison.unit), "said_past": score(y, comparison.unit)}
        for label, (x, y) in reference_places(comparison, labels).items()
    ]  # fmt: skip


def _encoding(comparison: Comparison, names: dict[str, Look], small: bool = False) -> Spec:
    scale = direction(comparison)
    below = None if small else legend(list(names), FULL_WIDTH - 80)
    axis = {"tickCount": 3} if small else {"tickCount": 6}
    return {
        "x": number(
            "newest", f"newest task: {comparison.primary}" + ("" if small else ", just learnt"), scale, axis=axis
        ),
        "y": number("past", f"earlier tasks: {comparison.primary}", scale, axis=axis),
        "color": category("name", {name: look.color for name, look in names.items()}, legend=below),
        "shape": category("name", {name: look.marker for name, look in names.items()}, legend=below),
        "tooltip": hover(name="method", strength="strength", said_past="earlier tasks", said_newest="newest task"),
    }


def _curve(encoding: Spec, labelled: bool) -> list[Spec]:
    """A line through the points in order of strength; marks are filled on the Pareto front."""
    line = {key: encoding[key] for key in ("x", "y", "color")} | {"order": {"field": "place"}}
    layers = [
        mark("line", line, strokeWidth=1.2, opacity=0.75, aria=False),
        mark("point", encoding, size=55, filled=True, transform=[{"filter": "datum.front"}]),
        mark("point", encoding, size=55, filled=False, strokeWidth=1.3, transform=[{"filter": "!datum.front"}]),
    ]
    for end, baseline, shift in (("low", "top", 8), ("high", "bottom", -8)) if labelled else ():
        text = {key: encoding[key] for key in ("x", "y")} | {"text": {"field": "strength"}}
        where = [{"filter": f"datum.end == '{end}'"}]
        layers.append(mark("text", text, baseline=baseline, dy=shift, transform=where, aria=False))
    return layers


def _stairs(comparison: Comparison, encoding: Spec) -> Spec:
    """Dashes along the Pareto front: points below and to the left of them are dominated."""
    front = sorted(map(place_of, undominated(comparison)))
    rows = [{"newest": x, "past": y, "place": k} for k, (x, y) in enumerate(front)]
    steps = "step-before" if comparison.higher_is_better else "step-after"
    line = {key: encoding[key] for key in ("x", "y")} | {"order": {"field": "place"}}
    return mark("line", line, data={"values": rows}, color=FLOOR, strokeDash=[3, 3], strokeWidth=1, interpolate=steps,
                aria=False)  # fmt: skip
