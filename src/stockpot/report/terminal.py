"""The tables for a terminal of 100 columns. Numbers are never cut; names give way."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from stockpot.report.formatting import MISSING, bytes_text, fit, score, score_with_interval, seconds, signed
from stockpot.report.method_costs import cost_rows, stored_words
from stockpot.report.other_scores import other_scores_of_run, score_heading
from stockpot.report.ranking import over_runs, ranked, run_design
from stockpot.report.tables import Grid, method_name, metric_rows, score_rows
from stockpot.report.whatif_tables import WHATIF_HEADINGS, whatif_rows
from stockpot.results import START_ROW, Comparison, Results, WhatIf

TERMINAL_WIDTH = 100
WIDEST_MATRIX = 16  # tasks; beyond them the matrix gives way to four moments


def grid_table(grid: Grid, numbered: int = 0) -> Table:
    """The first `numbered` headings become numbers of tasks; columns without any value are left out."""
    table = Table(
        title=Text(grid.caption.lower() if numbered else grid.caption), title_justify="left", box=box.SIMPLE_HEAD,
        pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("")
    kept = [k for k in range(len(grid.headings)) if any(values[k] != MISSING for _, values in grid.rows)]
    for k in kept:
        table.add_column(Text(str(k + 1) if k < numbered else grid.headings[k]), justify="right")
    for name, values in grid.rows:
        table.add_row(Text(name), *(values[k] for k in kept))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """The methods side by side; means ± half the interval."""
    unit, methods = comparison.unit, ranked(comparison)
    headings = [
        f"average\n{comparison.primary}", "\nforgetting", "newest\ntask", "training\ntime", "extra\nmemory", "\nstored",
    ]  # fmt: skip
    lines = [
        [
            *(score_with_interval(metric, unit) for metric in (s.average_accuracy, s.forgetting, s.newest_accuracy)),
            seconds(s.training_seconds.mean), bytes_text(s.extra_memory_bytes.mean),
            stored_words(s).replace(", ", ",\n"),
        ]
        for _, s in methods
    ]  # fmt: skip
    for name in list(methods[0][1].controls)[:1]:  # in the place of extra memory; the table below has all controls
        headings[4] = f"{fit(name, 8)}\nchange"
        for line, (_, s) in zip(lines, methods, strict=True):
            line[4] = signed(s.controls[name].change.mean, unit)
    if len({run_design(s.cells) for _, s in methods}) > 1:
        headings.append("\nruns")
        lines = [[*line, str(len(s.cells))] for line, (_, s) in zip(lines, methods, strict=True)]
    widths = [
        max(map(len, "\n".join([heading, *cells]).split("\n")))
        for heading, cells in zip(headings, zip(*lines, strict=True), strict=True)
    ]
    left = max(8, TERMINAL_WIDTH - 3 - sum(width + 3 for width in widths))

    table = Table(title=Text(comparison.name), caption=over_runs(comparison), box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for (label, s), line in zip(methods, lines, strict=True):
        mark = method_name(label, s).removeprefix(label)
        if len(label) <= left < len(label + mark):  # rather the whole label than the mark
            mark = ""
        table.add_row(Text(fit(label, max(1, left - len(mark)))).append(mark, style="dim"), *line)
    return table


def run_table(results: Results) -> Table:
    """A run: its matrix, the other scores, the metrics, the costs."""
    narrow = len(results.tasks) > 8
    metrics = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False, title="metrics", title_justify="left")
    for name, value, _ in metric_rows(results):
        metrics.add_row(name, value)
    costs = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False, title="costs", title_justify="left")
    for name, values in cost_rows([results.costs]):
        costs.add_row(name, *values)
    both = Table.grid(padding=(0, 4))
    both.add_row(metrics, costs)
    table = Table.grid()
    table.title = Text(f"{results.label} · seed {results.seed}")
    table.add_row(_matrix(results, narrow))
    others = other_scores_of_run(results)
    if others is not None:
        if narrow:  # no room for every task
            others = Grid(others.caption, others.headings[-2:], [(name, row[-2:]) for name, row in others.rows])
        table.add_row(grid_table(others, 0 if narrow else len(results.tasks)))
    table.add_row(both)
    return table


def _matrix(results: Results, narrow: bool) -> Table:
    """The primary score after each task; of many tasks each one's first, own and last score."""
    scores = results.scores[results.primary]

    def cell(value: float | None) -> str:
        if value is None:
            return ""
        if scores.unit == "fraction" and narrow:
            return f"{value:.2f}".removeprefix("0")
        return score(value, scores.unit)

    title = Text(score_heading(results.primary, scores))
    padding = (0, 0) if narrow else (0, 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, title=title, title_justify="left")
    if len(results.tasks) > WIDEST_MATRIX:
        for heading in ("task", START_ROW, "just learnt", "at the end"):
            table.add_column(heading, justify="left" if heading == "task" else "right", no_wrap=True)
        for i, row in enumerate(scores.matrix):
            moments = (scores.initial[i], row[i], scores.matrix[-1][i])
            table.add_row(Text(f"{i + 1} {results.tasks[i]}"), *(score(value, scores.unit) for value in moments))
        return table
    table.add_column("after \\ on", no_wrap=True, overflow="ellipsis", max_width=18)
    for j in range(len(results.tasks)):
        table.add_column(str(j + 1), justify="right", no_wrap=True)
    for name in scores.controls:
        table.add_column(Text(f"({name})", style="dim"), justify="right", no_wrap=True)
    for i, (stage, values) in enumerate(score_rows(results, results.primary)):
        table.add_row(Text(f"{i} {stage}") if i else Text(stage, style="dim"), *map(cell, values))
    return table


def whatif_table(whatif: WhatIf) -> Table:
    """The best value and the knee of every method; the first control alone, for all of them do not fit."""
    first = list(whatif.plain.controls)[:1]
    table = Table(title=Text(f"what if: {whatif.run}"), box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in WHATIF_HEADINGS:
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for control in first:
        table.add_column(Text(f"{fit(control, 8)}\nchange"), justify="right", no_wrap=True)
    table.add_column("a real\nrun", no_wrap=True)
    for row in whatif_rows(whatif):
        table.add_row(row.name, *row.values, *row.controls[:1], row.real)
    return table
