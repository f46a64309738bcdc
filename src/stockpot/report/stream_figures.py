"""A stream task by task: heat maps and trajectories of one run, and of the methods of a comparison side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from math import fsum

from stockpot.report.charts import (
    FLOOR,
    FULL_WIDTH,
    MARKERS,
    PALETTE,
    WIDTH,
    Chart,
    Row,
    Spec,
    category,
    chart,
    distinct,
    hover,
    legend,
    mark,
    number,
    short,
    task_colors,
)
from stockpot.report.formatting import score
from stockpot.report.heat_map import even_step, heat_map, heat_panels
from stockpot.report.ranking import ranked
from stockpot.results import START_ROW, Comparison, Results, Scores

MANY_TASKS = 16  # beyond these, tasks have no lines
_MOST_STAGES = 60  # of a panel's line; of more, even steps and the last
_DASHES = ([5.0, 3.0], [1.5, 2.0], [8.0, 3.0, 2.0, 3.0])
_Lines = Sequence[Sequence[float | None]]


def limits_of(values: Sequence[float | None], unit: str) -> tuple[float, float]:
    """0 to 1 for fractions, else the range of what was measured."""
    measured = [value for value in values if value is not None]
    if unit == "fraction" or not measured:
        return 0.0, 1.0
    low, high = min(measured), max(measured)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _writer(unit: str) -> Callable[[float], str]:
    return (lambda value: f"{value:.2f}") if unit == "fraction" else (lambda value: score(value, unit))


def matrix(results: Results) -> Chart:
    """The matrix of the primary score as a heat map: rows after learning a task, columns the task scored."""
    scores = results.scores[results.primary]
    learnt = results.tasks[: len(scores.matrix)]
    columns = results.tasks[: max(map(len, scores.matrix), default=0)]
    return heat_map(
        scores.matrix, learnt, columns,
        limits=limits_of([value for row in scores.matrix for value in row], scores.unit), meaning=results.primary,
        write=_writer(scores.unit), higher_is_better=scores.higher_is_better,
    )  # fmt: skip


def over_time(results: Results) -> Chart:
    """Each task's score over the stream, from the start model on; controls dashed. Of many tasks, a summary."""
    scores = results.scores[results.primary]
    rows = _trajectories(scores, scores.matrix, scores.initial, results.tasks)
    for name, values in scores.controls.items():
        rows += _points(f"{short(name)} (control)", list(values), scores.unit)
    controls = {f"{short(name)} (control)": _DASHES[k % 3] for k, name in enumerate(scores.controls)}
    return chart(
        {
            "data": {"values": rows},
            "width": FULL_WIDTH - 60,
            "height": 250,
            **_lines(scores, results.primary, results.tasks[: _columns(scores.matrix)], len(scores.matrix), controls),
        },
        wide=True,
    )


def runs_over_time(runs: Sequence[tuple[str, Results]]) -> Chart:
    """The mean score of the tasks learnt so far after each task, a line for each run."""
    names = distinct([name for name, _ in runs], 40)
    scores = runs[0][1].scores[runs[0][1].primary]
    rows = [
        {**row, "task": name}
        for name, (_, run) in zip(names, runs, strict=True)
        for row in _summary(run.scores[run.primary], run.scores[run.primary].matrix)
        if row["task"] == MEAN
    ]
    colors = dict(zip(names, cycle(PALETTE), strict=False))
    shapes = dict(zip(names, cycle(MARKERS), strict=False))
    below = legend(names, FULL_WIDTH - 60)
    x, y = _learnt(max(len(run.scores[run.primary].matrix) for _, run in runs)), _score(scores, runs[0][1].primary)
    line: Spec = {"x": x, "y": y, "color": category("task", colors, legend=below)}
    said = {
        **line,
        "shape": category("task", shapes, legend=below),
        "tooltip": hover(task="run", learnt="tasks", said="mean"),
    }
    layers = [mark("line", line, strokeWidth=1.8, aria=False), mark("point", said, size=45)]
    return chart({"data": {"values": rows}, "layer": layers, "width": FULL_WIDTH - 60, "height": 250}, wide=True)


def _learnt(stages: int) -> Spec:
    axis = {"title": "tasks learnt", "grid": False, "values": [*range(0, stages + 1, even_step(stages))], "format": "d"}
    axis["labelExpr"] = f"datum.value == 0 ? '{START_ROW}' : datum.label"
    return number("learnt", "tasks learnt", {"domain": [0, stages], "nice": False, "padding": 6}, axis=axis)


def _score(scores: Scores, title: str, few: bool = False) -> Spec:
    """The axis of a score: 0 to 1 for fractions, unless they are correlations and the like that leave it."""
    every = [value for row in (*scores.matrix, scores.initial, *scores.controls.values()) for value in row]
    outside = any(value is not None and not -0.02 <= value <= 1.02 for value in every)
    if scores.unit != "fraction" or outside:
        return number("value", title, axis={"tickCount": 3 if few else 5})
    values = [0, 0.5, 1] if few else [0, 0.25, 0.5, 0.75, 1]
    return number("value", title, {"domain": [-0.02, 1.02], "nice": False}, axis={"values": values, "format": ".2~f"})


def _columns(lines: _Lines) -> int:
    return max(map(len, lines), default=0)


def _points(name: str, values: Sequence[float | None], unit: str, newest: int = -1, first: int = 0) -> list[Row]:
    """A line's points: after how many tasks, its value, and whether the task had just been learnt."""
    return [
        {"task": name, "learnt": k, "value": value, "own": k == newest, "said": score(value, unit)}
        for k, value in enumerate(values, first)
        if value is not None
    ]


def _trajectories(scores: Scores, lines: _Lines, initial: Sequence[float | None], tasks: Sequence[str]) -> list[Row]:
    """The points of every task over the stages; of many tasks what they come to."""
    columns = _columns(lines)
    if columns > MANY_TASKS:
        return _summary(scores, lines)
    names = distinct(tasks[:columns], 24)
    return [
        point
        for j, name in enumerate(names)
        for point in _points(name, [initial[j], *(row[j] for row in lines)], scores.unit, newest=j + 1)
    ]


MEAN, NEWEST, RANGE = "mean of the tasks learnt", "the task just learnt", "worst to best task learnt"


def _summary(scores: Scores, lines: _Lines) -> list[Row]:
    """After each task: the mean of those learnt so far, the range from worst to best, and the one just learnt."""
    rows: list[Row] = []
    for i, line in enumerate(lines):
        known = [value for value in line[: i + 1] if value is not None]
        if known:
            mean = fsum(known) / len(known)
            said = f"{score(mean, scores.unit)} ({score(min(known), scores.unit)} to {score(max(known), scores.unit)})"
            at = {"learnt": i + 1, "own": False}
            rows.append({**at, "task": MEAN, "value": mean, "low": min(known), "high": max(known), "said": said})
        newest = line[i] if i < len(line) else None
        if newest is not None:
            rows.append({"task": NEWEST, "learnt": i + 1, "value": newest, "own": True, "dot": True,
                         "said": score(newest, scores.unit)})  # fmt: skip
    return rows


def _lines(
    scores: Scores,
    primary: str,
    tasks: Sequence[str],
    stages: int,
    controls: dict[str, list[float]],
    panel: bool = False,
) -> Spec:
    """The layers of trajectories: a line for each task, with a large mark where it was just learnt."""
    count = len(tasks)
    many = count > MANY_TASKS
    names = [MEAN, NEWEST] if many else distinct(tasks, 24)
    colors = dict(zip(names, PALETTE if many else task_colors(count), strict=False)) | dict.fromkeys(controls, FLOOR)
    dashes = {name: [1.0, 0.0] for name in names} | controls
    shown = [names[0], names[-1], *controls] if len(PALETTE) < count <= MANY_TASKS else [*names, *controls]
    few = not many and count <= len(MARKERS)
    stroke = {"symbolType": "stroke", "symbolStrokeWidth": 2} if controls or not few else {}
    below = legend(shown, FULL_WIDTH - 60, values=shown, symbolOpacity=1, **stroke)
    x, y = _learnt(stages), _score(scores, primary, few=panel)
    color = category("task", colors, legend=below)
    dash = category("task", dashes, legend=below) if controls else None
    base: Spec = {"x": x, "y": y, "color": color, "tooltip": hover(task="task", learnt="tasks learnt", said=primary)}
    layers = []
    if many:
        band = {key: base[key] for key in ("x", "color")}
        layers.append(
            mark("area", {**band, "y": {**y, "field": "low"}, "y2": {"field": "high"}}, opacity=0.2, aria=False,
                 transform=[{"filter": "isValid(datum.low)"}])
        )  # fmt: skip
    line = {key: base[key] for key in ("x", "y", "color")} | ({"strokeDash": dash} if dash else {})
    layers.append(mark("line", line, strokeWidth=1.8, clip=False, transform=[{"filter": "!datum.dot"}]))
    shape = category("task", dict(zip(names, MARKERS, strict=False)), legend=None if stroke else below) if few else None
    layers.append(mark("point", base, size=16 if not many else 10, transform=[{"filter": "!datum.own || datum.dot"}]))
    if not many:
        large = base | ({"shape": shape} if shape else {})
        layers.append(mark("point", large, size=40 if panel else 75, transform=[{"filter": "datum.own"}]))
    return {"layer": layers}


def _mean_matrix(runs: Sequence[Results]) -> tuple[Scores, list[list[float | None]], list[float | None]]:
    """The mean over seeds, cell by cell; a cell that no seed measured stays blank."""
    scores = [results.scores[results.primary] for results in runs]
    lines = [
        [_mean(cell) for cell in zip(*rows, strict=True)] for rows in zip(*(s.matrix for s in scores), strict=True)
    ]
    return scores[0], lines, [_mean(cell) for cell in zip(*(s.initial for s in scores), strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) / len(known) if known else None


def _panels(comparison: Comparison, cells: dict[str, list[Results]]) -> list[tuple[str, list[Results]]]:
    return [(label, cells[label]) for label, _ in ranked(comparison) if cells.get(label)]


def tasks_over_time(comparison: Comparison, cells: dict[str, list[Results]]) -> Chart:
    """Each task's score over the stream: a panel for each method, means over its seeds, shared axes."""
    panels = _panels(comparison, cells)
    titles = distinct([f"{short(label, 24)} (n = {len(runs)})" for label, runs in panels])
    rows: list[Row] = []
    stages = columns = 0
    for title, (label, runs) in zip(titles, panels, strict=True):
        scores, lines, initial = _mean_matrix(runs)
        stages, columns = max(stages, len(lines)), max(columns, _columns(lines))
        rows += [
            {**row, "method": label, "panel": title}
            for row in _trajectories(scores, lines, initial, comparison.tasks)
        ]  # fmt: skip
    step = -(-stages // _MOST_STAGES)
    rows = [row for row in rows if row["learnt"] % step == 0 or row["learnt"] == stages]
    across = min(3, len(panels))
    layers = _lines(scores, comparison.primary, comparison.tasks[:columns], stages, {}, panel=True)
    parts = {
        "data": {"values": rows},
        "facet": {"field": "panel", "type": "nominal", "sort": titles, "header": {"title": None}},
        "columns": across,
        "resolve": {"axis": {"x": "independent"}},
        "spec": {"width": (FULL_WIDTH - 60) // across - 40 if across > 1 else WIDTH, "height": 130, **layers},
    }
    return chart(parts, wide=True, hides=True)


def mean_matrices(comparison: Comparison, cells: dict[str, list[Results]]) -> Chart:
    """The mean matrix of every method over its seeds, on one colour scale."""
    panels = [(label, len(runs), *_mean_matrix(runs)) for label, runs in _panels(comparison, cells)]
    limits = limits_of([value for *_, lines, _ in panels for row in lines for value in row], comparison.unit)
    return heat_panels(
        [(label, f"{short(label, 24)} (n = {n})", lines) for label, n, _, lines, _ in panels],
        limits=limits, meaning=comparison.primary, write=_writer(comparison.unit), tasks=comparison.tasks,
        higher_is_better=panels[0][2].higher_is_better if panels else True,
    )  # fmt: skip
