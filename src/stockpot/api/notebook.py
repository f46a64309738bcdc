"""Tables for a notebook: HTML that needs no style sheet, every value escaped."""

from __future__ import annotations

from html import escape

from stockpot.report.formatting import METRIC_TITLES, metric_title, score, score_with_interval, seconds
from stockpot.report.other_scores import score_heading
from stockpot.report.ranking import over_runs, ranked, reference
from stockpot.report.tables import Column, Grid, method_grid, score_rows
from stockpot.report.whatif_tables import WHATIF_HEADINGS, whatif_rows
from stockpot.results import Comparison, MethodSummary, Results, WhatIf

MOST = 12  # rows or columns; the middle ones give way
GAP = "…"


def run_html(results: Results, path: str) -> str:
    """The primary score before the stream and after each task, and the metrics."""
    scores = results.scores[results.primary]
    rows = [(name, [score(v, scores.unit) for v in values]) for name, values in score_rows(results, results.primary)]
    headings = [*results.tasks[: len(scores.matrix)], *(f"({name})" for name in scores.controls)]
    matrix = Grid(score_heading(results.primary, scores), headings, rows, "after \\ on")
    metrics = [
        f"{metric_title(name, results.primary)} {score(value, scores.unit)}"
        for name in METRIC_TITLES
        if (value := getattr(results.metrics, name)) is not None
    ]
    return _page(f"{results.label} · seed {results.seed}", path, matrix, [" · ".join(metrics)])


def comparison_html(comparison: Comparison, path: str) -> str:
    """The methods, best first, with the verdicts against plain fine-tuning, and what the comparison found."""

    def estimated(metric: str) -> Column:
        return (
            metric_title(metric, comparison.primary),
            lambda _, summary: score_with_interval(getattr(summary, metric), comparison.unit),
        )

    def verdict(_: str, summary: MethodSummary) -> str:
        difference = summary.versus_sequential.get("average_accuracy")
        return "" if difference is None else difference.verdict

    columns = [estimated(metric) for metric in ("average_accuracy", "forgetting", "newest_accuracy")]
    if (floor := reference(comparison)) is not None:
        columns.append((f"average against {floor}", verdict))
    columns.append(("training time", lambda _, summary: seconds(summary.training_seconds.mean)))
    grid = method_grid(over_runs(comparison), ranked(comparison), columns)
    return _page(comparison.name, path, grid, comparison.sentences)


def whatif_html(whatif: WhatIf, path: str) -> str:
    """Every method at its best value and at its knee."""
    controls = [f"{name} since the start" for name in whatif.plain.controls]
    rows = [(row.name, [*row.values, *row.controls, row.real]) for row in whatif_rows(whatif)]
    grid = Grid("each method's best value and its knee", [*WHATIF_HEADINGS, *controls, "a real run"], rows)
    return _page(f"what if: {whatif.run}", path, grid, whatif.notes)


def _page(title: str, path: str, grid: Grid, lines: list[str]) -> str:
    below = "".join(f"<div>{escape(line)}</div>" for line in lines if line)
    return f"<div><b>{escape(title)}</b> <code>{escape(path)}</code>{_table(_clipped(grid))}{below}</div>"


def _clipped(grid: Grid) -> Grid:
    """At most MOST rows and columns of values; where some are left out, the caption says so."""
    columns, rows = _ends(len(grid.headings)), _ends(len(grid.rows))
    if len(columns) == len(grid.headings) and len(rows) == len(grid.rows):
        return grid
    clipped = [
        (GAP, [GAP] * len(columns))
        if row is None
        else (grid.rows[row][0], [GAP if k is None else grid.rows[row][1][k] for k in columns])
        for row in rows
    ]
    size = f"{len(grid.rows)} rows, {len(grid.headings)} columns; the report has all of them"
    return Grid(
        f"{grid.caption} ({size})", [GAP if k is None else grid.headings[k] for k in columns], clipped, grid.corner
    )


def _ends(count: int) -> list[int | None]:
    """The numbers below `count`; of many the first and the last ones, with None between them."""
    if count <= MOST:
        return list(range(count))
    half = MOST // 2
    return [*range(half), None, *range(count - half, count)]


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in [grid.corner, *grid.headings])
    body = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>{_cells(values)}</tr>' for name, values in grid.rows
    )
    caption = f'<caption style="text-align:left">{escape(grid.caption)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(values: list[str]) -> str:
    return "".join(f"<td>{escape(value)}</td>" for value in values)
