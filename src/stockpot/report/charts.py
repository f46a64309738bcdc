"""The house style, and what a figure is: a Vega-Lite specification as plain data, drawn by `rendering`.

Each figure is one pure function that returns a `Chart`. Colours have at least 3:1 contrast on white and on near-black,
and markers differ as well as hues; `INK` is the one dark colour, which a page replaces by that of its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final, NamedTuple, TypeAlias

from stockpot.methods import role_of
from stockpot.report.formatting import fit
from stockpot.results import Comparison

Spec: TypeAlias = dict[str, Any]
Row: TypeAlias = dict[str, Any]

INK: Final = "#24292e"
FLOOR, CEILING = "#7d828a", "#8c6d4f"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c0659a", "#b37a00", "#2e9bd6")
STAR = (
    "M0,-1L0.225,-0.309L0.951,-0.309L0.363,0.118L0.588,0.809"
    "L0,0.382L-0.588,0.809L-0.363,0.118L-0.951,-0.309L-0.225,-0.309Z"
)
PENTAGON = "M0,-0.9L0.856,-0.278L0.529,0.728L-0.529,0.728L-0.856,-0.278Z"
MARKERS = (
    "circle", "square", "triangle-up", "diamond", "triangle-down", "cross",
    STAR, "triangle-right", PENTAGON, "triangle-left",
)  # fmt: skip
BAR = "M-0.25,-1L0.25,-1L0.25,1L-0.25,1Z"
WIDTH, FULL_WIDTH = 400, 960  # pixels of the axes of a figure that shares its line, and of one that does not
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', 'Liberation Sans', sans-serif"
HIDDEN: Final = "hidden"  # the parameter with the methods that a reader has hidden
NOT_HIDDEN: Final = {"filter": f"indexof({HIDDEN}, datum.method) < 0"}  # leaves their rows out
SHADES = ("#7d66bb", "#3b7fc4", "#00958a", "#5d9133", "#b37a00")  # from the first of many tasks to the last

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_TEXT = {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"}
_CONFIG: Spec = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": {**_TEXT, "domainColor": INK, "tickColor": INK, "gridColor": FLOOR, "gridOpacity": 0.25, "labelLimit": 150},
    "header": {**_TEXT, "labelAnchor": "start", "labelFontSize": 12, "labelLimit": 260, "labelPadding": 4},
    "legend": {**_TEXT, "labelLimit": 220, "orient": "bottom", "title": None, "symbolSize": 60, "columnPadding": 14},
    "title": {"color": INK, "anchor": "start", "fontSize": 12, "fontWeight": "normal", "limit": 600},
    "text": {"color": INK, "fontSize": 10},
    "point": {"filled": True, "opacity": 1},
    "rule": {"color": FLOOR},
}


class Chart(NamedTuple):
    """A figure: its Vega-Lite specification, and how a page shows it."""

    spec: Spec
    wide: bool = False  # on a line of its own
    fluid: bool = False  # as wide as its place, down to a telephone's
    still: bool = False  # as a picture alone: there is nothing in it to point at


class Look(NamedTuple):
    """The colour and marker of one method, the same in every figure."""

    color: str
    marker: str


def looks(comparison: Comparison) -> dict[str, Look]:
    """Label → its look: grey for the floor, brown for the ceiling, the palette in turn for the other methods."""
    references = {"floor": Look(FLOOR, BAR), "ceiling": Look(CEILING, "diamond")}
    next_look = map(Look, cycle(PALETTE), cycle(MARKERS))
    return {label: references.get(role_of(s.method)) or next(next_look) for label, s in comparison.methods.items()}


def chart(
    parts: Spec, wide: bool = False, hides: bool = False, fluid: bool | None = None, still: bool = False
) -> Chart:
    """A whole specification in the house style.

    Args:
        parts: The specification without schema and configuration.
        wide: Whether the figure takes a line of the page alone.
        hides: Whether rows have a `method`, so that the page's list of methods hides theirs.
        fluid: Whether a page may set the width; by default it may, unless the figure is a grid of panels.
        still: Whether the page shows a picture alone.
    """
    spec = {"$schema": _SCHEMA, "config": _CONFIG, **parts}
    if hides:
        spec["params"] = [{"name": HIDDEN, "value": []}, *parts.get("params", [])]
        spec["transform"] = [NOT_HIDDEN, *parts.get("transform", [])]
    panels = any(key in parts for key in ("facet", "concat", "vconcat", "hconcat"))
    return Chart(spec, wide, not (panels or still) if fluid is None else fluid, still)


def mark(kind: str, encoding: Spec, **options: Any) -> Spec:
    """A layer: marks of one kind, with their encoding; `data`, `transform` and so on stand beside them."""
    beside: Spec = {key: options.pop(key) for key in ("data", "transform", "params") if key in options}
    return {**beside, "mark": {"type": kind, **options}, "encoding": encoding}


def number(field: str, title: str | None = None, scale: Spec | None = None, **options: Any) -> Spec:
    """A quantity on an axis, which need not begin at zero."""
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, **(scale or {})},
        **options,
    }


def category(field: str, colors: dict[str, Any], **options: Any) -> Spec:
    """A name as colour or marker: name → what stands for it, in the order of the legend."""
    scale = {"domain": list(colors), "range": list(colors.values())}
    return {"field": field, "type": "nominal", "scale": scale, **options}


def hover(**titles: str) -> list[Spec]:
    """What a figure says under the pointer: field → its title."""
    return [{"field": field, "title": title} for field, title in titles.items()]


def legend(names: Sequence[str], width: int = WIDTH, **options: Any) -> Spec:
    """A legend below the axes, in as many columns as fit."""
    longest = max((len(name) for name in names), default=1)
    return {"columns": max(1, min(len(names) or 1, (width + 60) // (34 + 7 * min(longest, 30)))), **options}


def task_colors(count: int) -> list[str]:
    """A colour for each task, the same in every figure: the palette, or of more tasks shades from first to last."""
    return list(PALETTE[:count]) if count <= len(PALETTE) else [blend(SHADES, k / (count - 1)) for k in range(count)]


def blend(stops: Sequence[str], share: float) -> str:
    """The colour at a share of the way along evenly spaced colours."""
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    k = min(int(place), len(stops) - 2)
    ends = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops[k : k + 2]]
    return "#" + "".join(f"{round(a + (place - k) * (b - a)):02x}" for a, b in zip(*ends, strict=True))


def printable(name: str) -> str:
    """The name on one line; unprintable characters, which SVG forbids, become spaces."""
    return "".join(c if c.isprintable() else " " for c in name).strip()


def short(name: str, length: int = 16) -> str:
    """A printable name, cut in the middle."""
    return fit(printable(name), length)


def distinct(names: Sequence[str], length: int = 40) -> list[str]:
    """The names as `short` writes them, numbered where two would be the same: an axis has one place for each."""
    seen: Counter[str] = Counter()
    written = []
    for name in (short(name, length) for name in names):
        seen[name] += 1
        written.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return written
