"""The tables for a terminal of 80 columns. Numbers are never cut and words never broken; names give way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich import box, get_console
from rich.columns import Columns
from rich.console import Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from stockpot.report.formatting import MISSING, bytes_text, fit, score, score_with_interval, seconds, signed
from stockpot.report.method_costs import cost_rows, stored_words
from stockpot.report.other_scores import other_scores_of_run, score_heading
from stockpot.report.ranking import over_runs, ranked, run_design
from stockpot.report.tables import Grid, method_name, metric_rows, score_rows
from stockpot.report.whatif_tables import whatif_rows
from stockpot.results import START_ROW, Comparison, MethodSummary, Results, WhatIf

TERMINAL_WIDTH = 80
WIDEST_MATRIX = 16  # tasks; beyond them the matrix gives way to four moments
_LONGEST_NAME = 30  # in the first column of a grid; longer ones go on in the next line
_SHORTEST_LABEL = 18  # a method's label is cut to this rather than that the table becomes two


def first_that_fits(tables: Iterator[Table]) -> Table:
    """The first table that needs no more than the terminal's columns, or else the last."""
    console = get_console()  # it measures, and prints nothing
    for table in tables:
        if Measurement.get(console, console.options.update(width=1000), table).maximum <= TERMINAL_WIDTH:
            break
    return table


def _plain(title: Text | None, gap: int = 3) -> Table:
    """A table with that many spaces between its columns."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0))


def grid_table(grid: Grid) -> Group:
    """A grid as one table, or where its columns do not fit as several below each other."""
    kept = [k for k in range(len(grid.headings)) if any(values[k] != MISSING for _, values in grid.rows)]
    names = min(_LONGEST_NAME, max((len(name) for name, _ in grid.rows), default=0))
    parts: list[list[int]] = [[]]
    left = TERMINAL_WIDTH - 2 - names - 2
    for k in kept:
        needed = _width([grid.headings[k].replace(" ", "\n"), *(values[k] for _, values in grid.rows)]) + 2
        if needed > left and parts[-1]:
            parts.append([])
            left = TERMINAL_WIDTH - 2 - names - 2
        parts[-1].append(k)
        left -= needed
    return Group(*(_grid_part(grid, part, "" if number else grid.caption) for number, part in enumerate(parts)))


def _grid_part(grid: Grid, columns: Sequence[int], caption: str, numbered: int = 0) -> Table:
    """Some columns of a grid; the first `numbered` headings become numbers of tasks."""
    table = _plain(Text(caption) if caption else None, gap=2)
    table.add_column("", max_width=_LONGEST_NAME)
    for k in columns:
        heading = str(k + 1) if k < numbered else grid.headings[k].replace(" ", "\n")
        table.add_column(Text(heading, justify="right"), justify="right", no_wrap=True)
    for name, values in grid.rows:
        table.add_row(Text(name), *(values[k] for k in columns))
    return table


def comparison_table(comparison: Comparison) -> Group:
    """The methods side by side; means ± half the interval."""
    return Group(*methods_tables(comparison))


def methods_tables(comparison: Comparison) -> list[Table]:
    """The scores and the costs of the methods as one table, or as two where they do not fit beside each other."""
    methods = ranked(comparison)
    scores, costs = _score_columns(comparison, methods), _cost_columns(methods)
    one_table = [*scores[:3], costs[0], *(scores[3:] if methods[0][1].controls else [costs[1], *scores[3:]]), costs[2]]
    longest = max(len(method_name(label, s)) for label, s in methods)
    for gap in (3, 2, 1):
        if _room(one_table, gap) >= (longest if gap > 1 else min(longest, _SHORTEST_LABEL)):
            return [_methods_table(methods, one_table, comparison.name, over_runs(comparison), gap)]
    gap = next((gap for gap in (3, 2) if min(_room(scores, gap), _room(costs, gap)) >= longest), 1)
    return [
        _methods_table(methods, scores, comparison.name, over_runs(comparison), gap),
        _methods_table(methods, costs, "costs", "", gap),
    ]


def _score_columns(comparison: Comparison, methods: Sequence[tuple[str, MethodSummary]]) -> list[list[str]]:
    """Heading and cells of three metrics, of the first control's change, and of the runs where they differ."""
    unit = comparison.unit
    average = f"average\n{comparison.primary}"
    columns = [
        [average, *(score_with_interval(s.average_accuracy, unit) for _, s in methods)],
        ["\nforgetting", *(score_with_interval(s.forgetting, unit) for _, s in methods)],
        ["newest\ntask", *(score_with_interval(s.newest_accuracy, unit) for _, s in methods)],
    ]
    for name in list(methods[0][1].controls)[:1]:  # the table below has all of them
        changes = [signed(s.controls[name].change.mean, unit) for _, s in methods]
        columns.append([f"{fit(name, 8)}\nchange", *changes])
    if len({run_design(s.cells) for _, s in methods}) > 1:
        columns.append(["\nruns", *(str(len(s.cells)) for _, s in methods)])
    return columns


def _cost_columns(methods: Sequence[tuple[str, MethodSummary]]) -> list[list[str]]:
    return [
        ["training\ntime", *(seconds(s.training_seconds.mean) for _, s in methods)],
        ["extra\nmemory", *(bytes_text(s.extra_memory_bytes.mean) for _, s in methods)],
        ["\nstored", *(stored_words(s).replace(", ", ",\n") for _, s in methods)],
    ]


def _width(cells: list[str]) -> int:
    return max(map(len, "\n".join(cells).split("\n")))


def _room(columns: list[list[str]], gap: int) -> int:
    """What the columns leave for the labels."""
    return TERMINAL_WIDTH - 2 - sum(_width(cells) + gap for cells in columns)


def _methods_table(
    methods: Sequence[tuple[str, MethodSummary]], columns: list[list[str]], title: str, caption: str, gap: int
) -> Table:
    table = _plain(Text(title), gap)
    table.caption = caption or None
    left = max(8, _room(columns, gap))
    table.add_column("method", no_wrap=True)
    for heading, *cells in columns:
        table.add_column(heading, justify="right", no_wrap=True, min_width=_width([heading, *cells]))
    for row, (label, s) in enumerate(methods, 1):
        mark = method_name(label, s).removeprefix(label)
        if len(label) <= left < len(label + mark):  # rather the whole label than the mark
            mark = ""
        cells = [column[row] for column in columns]
        table.add_row(Text(fit(label, max(1, left - len(mark)))).append(mark, style="dim"), *cells)
    return table


def run_table(results: Results) -> Group:
    """A run: its matrix, the other scores, the metrics, the costs."""
    metrics = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False, title="metrics", title_justify="left")
    for name, value, _ in metric_rows(results):
        metrics.add_row(name, value)
    costs = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False, title="costs", title_justify="left")
    for name, values in cost_rows([results.costs]):
        costs.add_row(name, *values)
    title = Text(f"{results.label} · seed {results.seed}", style="italic", justify="center")
    parts: list[Text | Table | Columns] = [title, first_that_fits(_matrices(results))]
    if (others := other_scores_of_run(results)) is not None:
        parts.append(first_that_fits(_others(others, len(results.tasks))))
    return Group(*parts, Columns([metrics, costs], padding=(0, 4)))


def _others(others: Grid, tasks: int) -> Iterator[Table]:
    """The other scores on every task, or where there is no room their average and forgetting."""
    count = len(others.headings)
    kept = [k for k in range(count) if any(values[k] != MISSING for _, values in others.rows)]
    yield _grid_part(others, kept, others.caption.lower(), numbered=tasks)
    yield _grid_part(others, [k for k in kept if k >= count - 2], others.caption.lower())


def _matrices(results: Results) -> Iterator[Table]:
    """The primary score after each task, with three decimals, with two; then each task's at four moments."""
    scores = results.scores[results.primary]

    def short_fraction(value: float) -> str:
        return f"{value:.2f}".replace("-0.", "−.").removeprefix("0")

    def written(value: float) -> str:
        return score(value, scores.unit)

    if len(results.tasks) <= WIDEST_MATRIX:
        yield _matrix(results, written, gap=3)
        yield _matrix(results, written, gap=2)
        if scores.unit == "fraction":
            yield _matrix(results, short_fraction, gap=1)
    table = _plain(Text(score_heading(results.primary, scores)))
    table.add_column("task", no_wrap=True, overflow="ellipsis", max_width=44)
    for heading in (START_ROW, "just learnt", "at the end"):
        table.add_column(heading, justify="right", no_wrap=True)
    for i, row in enumerate(scores.matrix):
        moments = (scores.initial[i], row[i], scores.matrix[-1][i])
        table.add_row(Text(f"{i + 1} {results.tasks[i]}"), *(score(value, scores.unit) for value in moments))
    yield table


def _matrix(results: Results, write: Callable[[float], str], gap: int) -> Table:
    """Rows: after learning a task; columns: the numbers of the tasks, and the controls."""
    scores = results.scores[results.primary]
    table = _plain(Text(score_heading(results.primary, scores)), gap)
    table.add_column("after \\ on", no_wrap=True, overflow="ellipsis", max_width=18)
    for j in range(len(results.tasks)):
        table.add_column(str(j + 1), justify="right", no_wrap=True)
    for name in scores.controls:
        table.add_column(Text(f"({fit(name, 10)})", style="dim"), justify="right", no_wrap=True)
    for i, (stage, values) in enumerate(score_rows(results, results.primary)):
        cells = ["" if value is None else write(value) for value in values]
        table.add_row(Text(f"{i} {stage}") if i else Text(stage, style="dim"), *cells)
    return table


def whatif_table(whatif: WhatIf) -> Table:
    """Every method at its best value, and below that at its knee; the first control alone, for all do not fit."""
    first = list(whatif.plain.controls)[:1]
    table = _plain(Text(f"what if: {whatif.run}"), gap=2)
    table.add_column("method", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("value", max_width=22)
    for heading in ("average", "earlier\ntasks", "newest\ntask"):
        table.add_column(heading, justify="right", no_wrap=True)
    for control in first:
        table.add_column(Text(f"{fit(control, 8)}\nchange"), justify="right", no_wrap=True)
    table.add_column("a real\nrun", no_wrap=True)
    for row in whatif_rows(whatif):
        best, average, past, newest, knee, knee_past, knee_newest = row.values
        table.add_row(
            row.name, "" if best == MISSING else f"best {best}", average, past, newest, *row.controls[:1], row.real
        )
        if knee != MISSING:
            scores = ["" if value == MISSING else value for value in (knee_past, knee_newest)]
            table.add_row(
                "", f"knee {knee}" if scores[0] else f"no knee: {knee}", "", *scores, *([""] * len(first)), ""
            )
    return table
