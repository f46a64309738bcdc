"""What stands beside the primary score: the other scores, each in its own unit, and data that is never trained on."""

from __future__ import annotations

from collections.abc import Callable

from stockpot.evaluation.metrics import control_metrics, stream_metrics
from stockpot.evaluation.statistics import estimate_runs
from stockpot.report.formatting import score, score_with_interval
from stockpot.report.ranking import ranked
from stockpot.report.tables import Grid
from stockpot.results import START_ROW, Comparison, Results, Scores

ARROWS = " (↑ higher, ↓ lower is better)"


def score_heading(name: str, scores: Scores) -> str:
    """`"loss (nats per token, lower is better)"`; the unit is left out if the name says it."""
    unit = "" if scores.unit == name.replace("_", " ") else f"{scores.unit}, "
    return f"{name} ({unit}{'higher' if scores.higher_is_better else 'lower'} is better)"


def _short_heading(name: str, scores: Scores) -> str:
    """`"loss, nats per token ↓"`; fractions need no unit."""
    unit = "" if scores.unit in ("fraction", name.replace("_", " ")) else f", {scores.unit}"
    return f"{name}{unit} {'↑' if scores.higher_is_better else '↓'}"


def other_scores_of_run(results: Results) -> Grid | None:
    """Every other score of a run after the last task: on each task and control, its average and forgetting.

    Average and forgetting are missing where a score is not measured on every task.
    """
    others = [(name, scores) for name, scores in results.scores.items() if name != results.primary and scores.matrix]
    if not others:
        return None
    controls = list(others[0][1].controls)
    rows = []
    for name, scores in others:
        metrics = stream_metrics(scores, chained=results.metrics.forgetting is not None)
        last = [*scores.matrix[-1], *(scores.controls[control][-1] for control in controls)]
        values = [*last, metrics.average_accuracy, metrics.forgetting]
        rows.append((_short_heading(name, scores), [score(value, scores.unit) for value in values]))
    headings = [*results.tasks, *(f"({control})" for control in controls), "average", "forgetting"]
    return Grid(f"Other scores after the last task{ARROWS}", headings, rows, "score")


def other_scores_of_comparison(comparison: Comparison, cells: dict[str, list[Results]]) -> list[Grid]:
    """The controls at the start and at the end of the stream, and the averages of the other scores, a row a method.

    Means ± half the interval, as for the primary score.
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
                estimates = [estimate_runs(dict(zip(places, column, strict=True))) for column in columns]
                texts = [score_with_interval(estimate, unit) for estimate, unit in zip(estimates, units, strict=True)]
                written.append((label, texts))
        return written

    grids, scores = [], first.scores[first.primary]
    controls = list(scores.controls)
    if controls:
        moments = (START_ROW, "at the end", "change", "worst change")
        headings = [f"{control}, {when}" for control in controls for when in moments]

        def pick(run: Results) -> list[float | None]:
            primary = run.scores[run.primary]
            metrics = control_metrics(primary)
            return [
                value
                for name in controls
                for value in (
                    primary.controls[name][0],
                    primary.controls[name][-1],
                    metrics[name].change,
                    metrics[name].worst,
                )
            ]

        picked = rows(pick, [scores.unit] * len(headings))
        caption = (
            f"Controls, never trained on: {score_heading(first.primary, scores)}, at the start and at the end of the "
            "stream, and the change (positive: better)"
        )
        grids.append(Grid(caption, headings, picked))
    names = [name for name in first.scores if name != first.primary]
    if names:
        picked = rows(
            lambda run: [stream_metrics(run.scores[name]).average_accuracy for name in names],
            [first.scores[name].unit for name in names],
        )
        headings = [_short_heading(name, first.scores[name]) for name in names]
        grids.append(Grid(f"Other scores, mean over the tasks, after the last one{ARROWS}", headings, picked))
    return grids
