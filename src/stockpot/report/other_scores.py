"""What stands beside the primary score: the other scores, each in its own unit, and data that is never trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from stockpot.evaluation.metrics import control_metrics, stream_metrics
from stockpot.evaluation.statistics import estimate_runs
from stockpot.report.formatting import MISSING, ranked, score, score_with_interval
from stockpot.results import Comparison, Results, Scores

if TYPE_CHECKING:
    from rich.table import Table


ARROWS = " (↑ higher, ↓ lower is better)"


class Grid(NamedTuple):
    """A table in words: what it is, the headings of its columns, and its rows."""

    caption: str
    headings: list[str]
    rows: list[tuple[str, list[str]]]


def score_heading(title: str, scores: Scores) -> str:
    """`"loss (nats per token, lower is better)"`; the unit is left out where the title says it."""
    unit = "" if scores.unit == title.replace("_", " ") else f"{scores.unit}, "
    return f"{title} ({unit}{'higher' if scores.higher_is_better else 'lower'} is better)"


def _briefly(title: str, scores: Scores) -> str:
    """`"loss, nats per token ↓"`; fractions need no unit."""
    unit = "" if scores.unit in ("fraction", title.replace("_", " ")) else f", {scores.unit}"
    return f"{title}{unit} {'↑' if scores.higher_is_better else '↓'}"


def other_scores_of_run(results: Results) -> Grid | None:
    """Every other score of a run after the last task: on each task and control, and what it comes to.

    Average and forgetting are missing where a score is not measured on every task.
    """
    found = [(name, scores) for name, scores in results.scores.items() if name != results.primary and scores.matrix]
    if not found:
        return None
    controls = list(found[0][1].controls)
    rows = []
    for name, scores in found:
        metrics = stream_metrics(scores, chained=results.metrics.forgetting is not None)
        now = [*scores.matrix[-1], *(scores.controls[control][-1] for control in controls)]
        values = [*now, metrics.average_accuracy, metrics.forgetting]
        rows.append((_briefly(name, scores), [score(value, scores.unit) for value in values]))
    headings = [*results.tasks, *(f"({control})" for control in controls), "average", "forgetting"]
    return Grid(f"Other scores after the last task{ARROWS}", headings, rows)


def other_scores_of_comparison(comparison: Comparison, cells: dict[str, list[Results]]) -> list[Grid]:
    """The controls before the first task and after the last, and the averages of the other scores, a row a method.

    Means ± half the interval, as those of the primary score.
    """
    first = next((run for runs in cells.values() for run in runs if run.scores[run.primary].matrix), None)
    if first is None:
        return []

    def rows(pick: Callable[[Results], list[float | None]], units: list[str]) -> list[tuple[str, list[str]]]:
        written = []
        for label, summary in ranked(comparison):
            runs = cells.get(label, [])
            places = [(cell.order, cell.seed) for cell in summary.cells]
            if len(runs) == len(places):
                columns = zip(*map(pick, runs), strict=True)
                found = [estimate_runs(dict(zip(places, column, strict=True))) for column in columns]
                texts = [score_with_interval(one, unit) for one, unit in zip(found, units, strict=True)]
                written.append((label, texts))
        return written

    grids, scores = [], first.scores[first.primary]
    controls = list(scores.controls)
    if controls:
        moments = ("before", "after", "change", "worst change")
        headings = [f"{control}, {when}" for control in controls for when in moments]

        def pick(run: Results) -> list[float | None]:
            own = run.scores[run.primary]
            metrics = control_metrics(own)
            return [
                value
                for one in controls
                for value in (own.controls[one][0], own.controls[one][-1], metrics[one].change, metrics[one].worst)
            ]

        picked = rows(pick, [scores.unit] * len(headings))
        caption = (
            f"Controls, never trained on: {score_heading(first.primary, scores)}, before the first task and after the "
            "last, and the change, positive for better"
        )
        grids.append(Grid(caption, headings, picked))
    names = [name for name in first.scores if name != first.primary]
    if names:
        picked = rows(
            lambda run: [stream_metrics(run.scores[name]).average_accuracy for name in names],
            [first.scores[name].unit for name in names],
        )
        heads = [_briefly(name, first.scores[name]) for name in names]
        caption = f"Other scores, mean over the tasks, after the last one{ARROWS}"
        grids.append(Grid(caption, heads, picked))
    return grids


def grid_table(grid: Grid, numbered: int = 0) -> Table:
    """For a terminal: the first `numbered` headings are numbers of tasks; columns without any value are left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

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
