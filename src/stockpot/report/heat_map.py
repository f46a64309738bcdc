"""Matrices as heat maps: cells with their numbers while there is room, and beyond that one picture of pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from math import fsum
from typing import Final, TypeAlias

from stockpot.report.charts import (
    FULL_WIDTH,
    WIDTH,
    Chart,
    Row,
    Spec,
    blend,
    chart,
    distinct,
    hover,
    mark,
)

CellRows: TypeAlias = Sequence[Sequence[float | None]]

VIRIDIS: Final = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151",
    "#bddf26", "#fde725",
)  # fmt: skip
MOST_NUMBERS = 16  # rows or columns; beyond these, cells have a colour alone
MOST_CELLS = 900  # beyond these they are pixels, and rows and columns have numbers for names
_CELL = (46, 30)  # pixels at most
_COLORS = 64  # of a picture of pixels
_MOST_PIXELS = 100  # rows of one among several


def heat_map(
    matrix: CellRows,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limits: tuple[float, float],
    meaning: str,
    write: Callable[[float], str],
    axes: tuple[str, str] = ("after learning task", "score on task"),
    higher_is_better: bool = True,
) -> Chart:
    """A matrix as a heat map; None is a cell that stays blank.

    Args:
        matrix: Its values, one row for each name in `rows`.
        rows: Names of the rows, from the top.
        columns: Names of the columns.
        limits: The values at the ends of the colours.
        meaning: What the colours are, under the legend.
        write: A value as text, in its cell and under the pointer.
        axes: What the rows and the columns are.
        higher_is_better: Whether the highest value is the brightest.
    """
    many = max(len(rows), len(columns)) > MOST_NUMBERS
    pixels = many and len(rows) * len(columns) > MOST_CELLS
    most = FULL_WIDTH - 250 if many else WIDTH + 20 * max(0, len(columns) - 8)
    width = most if pixels else min(_CELL[0] * len(columns), most)
    per_row = max(width / max(1, len(columns)), 24 if len(rows) <= MOST_NUMBERS else 0) if many else _CELL[1]
    height = min(per_row * len(rows), max(width, _CELL[1] * len(rows) if not many else 0))
    ramp = VIRIDIS if higher_is_better else VIRIDIS[::-1]
    size: Spec = {"width": round(max(width, 60)), "height": round(max(height, 30))}
    color = _color(limits, ramp, meaning, "right")
    if pixels:
        data = _corners(len(matrix), _width(matrix), picture(matrix, limits, ramp), limits)
        layers = _pixels(len(matrix), _width(matrix), axes, color)
        return chart({**size, "data": {"values": data}, "layer": layers}, wide=True, still=True)
    cells = _cells(matrix, distinct(rows), distinct(columns), limits, ramp, write, axes, color)
    return chart({**size, **cells}, wide=many, fluid=len(columns) <= 10)


def _cells(
    matrix: CellRows,
    rows: list[str],
    columns: list[str],
    limits: tuple[float, float],
    ramp: Sequence[str],
    write: Callable[[float], str],
    axes: tuple[str, str],
    color: Spec,
) -> Spec:
    values: list[Row] = [
        {"row": row, "column": column, "value": value, "text": write(value), "ink": _ink(value, limits, ramp)}
        for row, line in zip(rows, matrix, strict=True)
        for column, value in zip(columns, line, strict=True)
        if value is not None
    ]
    slanted = sum(map(len, columns)) > 36 or len(columns) > 8
    numbers = max(len(rows), len(columns)) <= MOST_NUMBERS
    angle = (-40 if numbers else -90) if slanted else 0
    under = {"labelAngle": angle, "labelLimit": 110, "ticks": False, "domain": False}
    place = {
        "x": {"field": "column", "type": "nominal", "scale": {"domain": columns}, "axis": {"title": axes[1], **under}},
        "y": {
            "field": "row",
            "type": "nominal",
            "scale": {"domain": rows},
            "axis": {"title": axes[0], "ticks": False, "domain": False, "labelLimit": 140},
        },
    }
    said = hover(row=axes[0], column=axes[1], text="value")
    ink = {"field": "ink", "type": "nominal", "scale": None}
    text = {"text": {"field": "text"}, "color": ink, "tooltip": said}
    layers = [mark("rect", {**place, "color": color, "tooltip": said}, stroke=None)]
    if numbers:
        layers.append(mark("text", {**place, **text}, fontSize=11 if len(columns) <= 8 else 9, aria=False))
    return {"data": {"values": values}, "resolve": {"scale": {"color": "independent"}}, "layer": layers}


def _ink(value: float, limits: tuple[float, float], ramp: Sequence[str]) -> str:
    """White or black, whichever is read on a cell's colour."""
    filled = blend(ramp, _share(value, limits))
    red, green, blue = (int(filled[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#ffffff" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "#111111"


def _share(value: float, limits: tuple[float, float]) -> float:
    return (value - limits[0]) / ((limits[1] - limits[0]) or 1.0)


def heat_panels(
    panels: Sequence[tuple[str, str, CellRows]],
    *,
    tasks: Sequence[str],
    limits: tuple[float, float],
    meaning: str,
    write: Callable[[float], str],
    higher_is_better: bool = True,
) -> Chart:
    """Matrices of several methods side by side, tasks by their numbers, on one scale of colours.

    Args:
        panels: A method's label, the title of its panel, and its matrix.
        tasks: The names of the tasks, said under the pointer.
        limits: The values at the ends of the colours.
        meaning: What the colours are.
        write: A value as text, under the pointer.
        higher_is_better: Whether the highest value is the brightest.
    """
    ramp = VIRIDIS if higher_is_better else VIRIDIS[::-1]
    titles = distinct([title for _, title, _ in panels])
    size, across = max((max(len(m), _width(m)) for *_, m in panels), default=1), min(4, len(panels) or 1)
    pixels = size * size * len(panels) > MOST_CELLS
    axes, color = ("after learning task", "score on task"), _color(limits, ramp, meaning, "bottom")
    rows: list[Row] = []
    names = distinct(tasks)
    for title, (label, _, matrix) in zip(titles, panels, strict=True):
        if pixels:
            address = picture(_coarser(matrix, _MOST_PIXELS), limits, ramp)
            data = _corners(len(matrix), _width(matrix), address, limits)
        else:
            data = [
                {"left": j, "right": j + 1, "top": i, "bottom": i + 1, "value": value, "said": write(value),
                 "row": names[i], "column": names[j]}
                for i, line in enumerate(matrix) for j, value in enumerate(line) if value is not None
            ]  # fmt: skip
        rows += [{**row, "panel": title, "method": label} for row in data]
    layers = _pixels(size, size, axes, color)
    if not pixels:
        cell = layers[-1]["encoding"]
        said = hover(method="method", row=axes[0], column=axes[1], said="value")
        layers = [mark("rect", {**cell, "tooltip": said}, stroke=None)]
    side = (FULL_WIDTH - 60) // max(across, 3) - 40
    parts = {
        "data": {"values": rows},
        "facet": {"field": "panel", "type": "nominal", "sort": titles, "header": {"title": None}},
        "columns": across,
        "resolve": {"axis": {"x": "independent"}},
        "spec": {"width": side, "height": side, "layer": layers},
    }
    return chart(parts, wide=True, hides=True, still=pixels)


def _color(limits: tuple[float, float], ramp: Sequence[str], meaning: str, orient: str) -> Spec:
    bar = {"title": meaning, "gradientLength": 160, "gradientThickness": 10, "orient": orient, "titleLimit": 160}
    scale = {"domain": list(limits), "range": list(ramp), "clamp": True, "interpolate": "rgb"}
    return {"field": "value", "type": "quantitative", "scale": scale, "legend": {**bar, "tickCount": 5}}


def _width(matrix: CellRows) -> int:
    return max(map(len, matrix), default=0)


def _corners(height: int, width: int, address: str, limits: tuple[float, float]) -> list[Row]:
    """Where a picture lies, and the ends of its values, which the legend of the colours is made of."""
    place: Row = {"left": 0, "right": width, "top": 0, "bottom": height}
    return [{**place, "value": limits[0], "url": address}, {**place, "value": limits[1]}]


def _pixels(height: int, width: int, axes: tuple[str, str], color: Spec) -> list[Spec]:
    """One picture instead of a rectangle for every cell, between axes with the numbers of rows and columns."""

    def axis(count: int, title: str) -> Spec:
        step = even_step(count)
        ticks = [k - 0.5 for k in range(1, count + 1) if k == 1 or k % step == 0]
        expression = "format(datum.value + 0.5, 'd')"
        return {
            "title": title,
            "values": ticks,
            "labelExpr": expression,
            "grid": False,
            "ticks": False,
            "domain": False,
        }

    whole = {
        "x": {"field": "left", "type": "quantitative", "scale": {"domain": [0, width], "nice": False},
              "axis": axis(width, axes[1])},
        "x2": {"field": "right"},
        "y": {"field": "top", "type": "quantitative", "scale": {"domain": [height, 0], "nice": False},
              "axis": axis(height, axes[0])},
        "y2": {"field": "bottom"},
    }  # fmt: skip
    image = {**whole, "url": {"field": "url", "type": "nominal"}}
    return [
        mark("image", image, aspect=False, smooth=False, aria=False, transform=[{"filter": "isValid(datum.url)"}]),
        mark("rect", {**whole, "color": color}, opacity=0, aria=False),
    ]


def picture(matrix: CellRows, limits: tuple[float, float], ramp: Sequence[str]) -> str:
    """The matrix as a PNG, a pixel of 64 colours for each cell and none for None, in a `data:` address."""
    from PIL import Image

    width = max(1, _width(matrix))
    cells = bytearray([_COLORS]) * (width * max(1, len(matrix)))
    for y, line in enumerate(matrix):
        for x, value in enumerate(line):
            if value is not None:
                cells[y * width + x] = round(min(max(_share(value, limits), 0.0), 1.0) * (_COLORS - 1))
    image = Image.frombytes("P", (width, len(cells) // width), bytes(cells))
    stops = [blend(ramp, k / (_COLORS - 1)) for k in range(_COLORS)] + ["#ffffff"]
    image.putpalette([int(stop[i : i + 2], 16) for stop in stops for i in (1, 3, 5)])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=_COLORS)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _coarser(matrix: CellRows, most: int) -> CellRows:
    """The means of square blocks, so that there are at most as many rows as that."""
    size = -(-max(len(matrix), _width(matrix)) // most)
    if size == 1:
        return matrix
    blocks: list[list[list[float]]] = []
    for y, line in enumerate(matrix):
        if y % size == 0:
            blocks.append([[] for _ in range(-(-_width(matrix) // size))])
        for x, value in enumerate(line):
            if value is not None:
                blocks[-1][x // size].append(value)
    return [[fsum(block) / len(block) if block else None for block in line] for line in blocks]


def even_step(count: int) -> int:
    """The step between numbers on an axis that leaves at most a dozen of them."""
    return next(step for step in (1, 5, 10, 25, 50, 100, 250, 500, count) if count <= 10 * step)
