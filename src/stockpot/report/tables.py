"""The tables: their rows as text, once, for the terminal and for the pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from stockpot.evaluation.metrics import control_metrics
from stockpot.methods import role_of
from stockpot.report.formatting import (
    METRIC_TITLES,
    MISSING,
    bytes_text,
    fit,
    kept_words,
    metric_title,
    over_runs,
    percent,
    ranked,
    reference,
    relative_time,
    run_design,
    score,
    score_with_interval,
    seconds,
    signed,
    times,
    with_interval,
)
from stockpot.report.other_scores import Grid, grid_table, other_scores_of_run, score_heading
from stockpot.results import Comparison, Costs, Results

if TYPE_CHECKING:
    from rich.table import Table

COST_COLUMNS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "training_seconds": ("training", seconds),
    "averaging_seconds": ("of it averaging", seconds),
    "evaluation_seconds": ("evaluation", seconds),
    "training_cpu_seconds": ("training, processor", seconds),
    "averaging_cpu_seconds": ("of it averaging, processor", seconds),
    "evaluation_cpu_seconds": ("evaluation, processor", seconds),
    "peak_memory_bytes": ("peak memory", bytes_text),
    "extra_memory_bytes": ("extra memory", bytes_text),
    "stored_bytes": ("stored between tasks", bytes_text),
    "stored_data_bytes": ("of it data", bytes_text),
    "stored_model_bytes": ("of it models", bytes_text),
    "stored_statistics_bytes": ("of it statistics", bytes_text),
    "steps": ("steps", lambda n: MISSING if n is None else f"{n:,.0f}".replace(",", " ")),
    "averages": ("averages", lambda n: MISSING if n is None else f"{n:,.0f}".replace(",", " ")),
}
TERMINAL = 100
WIDEST_MATRIX = 16
CONTROL_CHANGE = "how much better data that is never trained on is than under the start model; below zero it is worse"
CONTROL_WORST = "the lowest of these changes over the stream"


class MethodRow(NamedTuple):
    """One method of a comparison, in words."""

    label: str
    role: str
    average_accuracy: str
    forgetting: str
    newest_accuracy: str
    plasticity: str
    kept: str
    seconds: str
    time: str
    extra_memory: str
    stored: str
    verdict: str
    runs: str


class DifferenceRow(NamedTuple):
    """One paired difference to sequential fine-tuning, in words."""

    label: str
    difference: str
    interval: str
    p: str
    verdict: str
    n: str


def comparison_rows(comparison: Comparison) -> list[MethodRow]:
    """The methods, best average first: means ± half the interval; the verdict is on the average accuracy."""
    base = reference(comparison)
    plain = comparison.methods[base] if base is not None else None

    return [
        MethodRow(
            label=label,
            role="" if role_of(s.method) == "rival" else role_of(s.method),
            average_accuracy=score_with_interval(s.average_accuracy, comparison.unit),
            forgetting=score_with_interval(s.forgetting, comparison.unit),
            newest_accuracy=score_with_interval(s.newest_accuracy, comparison.unit),
            plasticity=score_with_interval(s.plasticity, comparison.unit),
            kept=MISSING
            if s.kept.mean is None
            else with_interval(s.kept, lambda x: MISSING if x is None else percent(x)),
            seconds=seconds(s.training_seconds.mean),
            time=times(relative_time(s, plain)),
            extra_memory=bytes_text(s.extra_memory_bytes.mean),
            stored=kept_words(s),
            verdict=s.versus_sequential["average_accuracy"].verdict if s.versus_sequential else "",
            runs=run_design(s.cells),
        )
        for label, s in ranked(comparison)
    ]


def difference_rows(comparison: Comparison, metric: str) -> list[DifferenceRow]:
    """Every method's corrected difference to sequential fine-tuning in one metric."""
    rows = []
    for label, summary in ranked(comparison):
        found = summary.versus_sequential.get(metric)
        if found is None or found.mean is None:
            continue
        low, high = signed(found.low, comparison.unit), signed(found.high, comparison.unit)
        rows.append(
            DifferenceRow(
                label=label,
                difference=signed(found.mean, comparison.unit),
                interval=MISSING if found.low is None else f"{low} to {high}",
                p=MISSING if found.p_holm is None else ("< 0.001" if found.p_holm < 0.001 else f"{found.p_holm:.3f}"),
                verdict=found.verdict,
                n=str(found.n),
            )
        )
    return rows


def cost_rows(costs: list[Costs]) -> list[tuple[str, list[str]]]:
    """Costs by row, one column for each of `costs`, in human units; rows that are zero throughout are left out."""
    rows = []
    for field, (name, write) in COST_COLUMNS.items():
        values = [getattr(cost, field) for cost in costs]
        if any(values):
            rows.append((name, [write(value) for value in values]))
    return rows


def method_costs(comparison: Comparison) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and a row a method, best average first: mean costs ± half the interval.

    Costs that are zero for every method are left out.
    """
    rows = ranked(comparison)
    fields = [field for field in COST_COLUMNS if any(getattr(summary, field).mean for _, summary in rows)]
    written = [
        (label, [with_interval(getattr(summary, f), COST_COLUMNS[f][1]) for f in fields]) for label, summary in rows
    ]
    return [COST_COLUMNS[field][0] for field in fields], written


def metric_rows(results: Results) -> list[tuple[str, str, str]]:
    """(title, value, explanation) of every metric of a run."""
    scores = results.scores[results.primary]
    rows = [
        (metric_title(key, results.primary), score(getattr(results.metrics, key), scores.unit), text)
        for key, (_, text) in METRIC_TITLES.items()
    ]
    for name, found in control_metrics(scores).items():
        rows.append((f"{name} since the start", signed(found.change, scores.unit), CONTROL_CHANGE))
        rows.append((f"{name} at its worst", signed(found.worst, scores.unit), CONTROL_WORST))
    return rows


def comparison_table(comparison: Comparison) -> Table:
    """The methods side by side, for a terminal of 100 columns; means ± half the interval."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = comparison_rows(comparison)
    counts = {row.runs for row in rows}
    caption = over_runs(comparison)
    headings = [
        f"average\n{comparison.primary}",
        "\nforgetting",
        "newest\ntask",
        "training\ntime",
        "extra\nmemory",
        "\nstored",
    ]
    lines = [
        [r.average_accuracy, r.forgetting, r.newest_accuracy, r.seconds, r.extra_memory, r.stored.replace(", ", ",\n")]
        for r in rows
    ]
    for name in list(comparison.methods[rows[0].label].controls)[:1]:  # in the place of extra memory; all follow below
        headings[4] = f"{fit(name, 8)}\nchange"
        for line, row in zip(lines, rows, strict=True):
            line[4] = signed(comparison.methods[row.label].controls[name].change.mean, comparison.unit)
    if len(counts) > 1:
        headings.append("\nruns")
        lines = [[*line, str(len(comparison.methods[row.label].cells))] for line, row in zip(lines, rows, strict=True)]
    widths = [
        max(map(len, "\n".join([heading, *cells]).split("\n")))
        for heading, cells in zip(headings, zip(*lines, strict=True), strict=True)
    ]
    left = max(8, TERMINAL - 3 - sum(width + 3 for width in widths))  # numbers are never cut; names give way

    table = Table(title=Text(comparison.name), caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for row, line in zip(rows, lines, strict=True):
        mark = f" ({row.role})" if row.role else ""
        if len(row.label) <= left < len(row.label + mark):  # rather the whole name than the mark
            mark = ""
        table.add_row(Text(fit(row.label, max(1, left - len(mark)))).append(mark, style="dim"), *line)
    return table


def run_table(results: Results) -> Table:
    """A run for a terminal of 100 columns: the matrix, the other scores, the metrics, the costs.

    Beyond 16 tasks the matrix gives way to each task's first, own and last score.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    scores = results.scores[results.primary]
    narrow = len(results.tasks) > 8

    def cell(value: float | None) -> str:
        if value is None:
            return ""
        if scores.unit == "fraction" and narrow:
            return f"{value:.2f}".removeprefix("0")
        return score(value, scores.unit)

    heading = score_heading(results.primary, scores)
    padding = (0, 0) if narrow else (0, 1)
    matrix = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, title=heading, title_justify="left")
    if len(results.tasks) <= WIDEST_MATRIX:
        matrix.add_column("after \\ on", no_wrap=True, overflow="ellipsis", max_width=18)
        for j in range(len(results.tasks)):
            matrix.add_column(str(j + 1), justify="right", no_wrap=True)
        for name in scores.controls:
            matrix.add_column(Text(f"({name})", style="dim"), justify="right", no_wrap=True)
        columns = [list(values) for values in zip(*scores.controls.values(), strict=True)] or [[]] * (
            1 + len(scores.matrix)
        )
        matrix.add_row(Text("(before)", style="dim"), *map(cell, [*scores.initial, *columns[0]]))
        for i, row in enumerate(scores.matrix):
            matrix.add_row(Text(f"{i + 1} {results.tasks[i]}"), *map(cell, [*row, *columns[i + 1]]))
    else:
        for heading in ("task", "before", "just learnt", "at the end"):
            matrix.add_column(heading, justify="left" if heading == "task" else "right", no_wrap=True)
        for i, row in enumerate(scores.matrix):
            moments = (scores.initial[i], row[i], scores.matrix[-1][i])
            matrix.add_row(Text(f"{i + 1} {results.tasks[i]}"), *(score(value, scores.unit) for value in moments))

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
    table.add_row(matrix)
    beside = other_scores_of_run(results)
    if beside is not None:
        if narrow:  # no room for every task
            beside = Grid(beside.caption, beside.headings[-2:], [(name, row[-2:]) for name, row in beside.rows])
        table.add_row(grid_table(beside, 0 if narrow else len(results.tasks)))
    table.add_row(both)
    return table
