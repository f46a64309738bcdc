"""The tables that a paper or a page takes over: of a run each score's matrix, of a comparison the methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stockpot.evaluation.statistics import lower_is_better
from stockpot.methods import role_of
from stockpot.report.formatting import capitalized, metric_heading, score, score_with_interval, seconds, signed
from stockpot.report.lost_classes import confusion_grid, lost_grids
from stockpot.report.other_scores import score_heading
from stockpot.report.pairwise import pairwise_differences
from stockpot.report.ranking import over_runs, ranked, reference
from stockpot.report.tables import Grid, method_name, metric_rows, score_rows
from stockpot.results import Comparison, MethodSummary, Results

BOLD_MEANS = "; bold: shown to be better than plain fine-tuning and than every other method, floor and ceiling apart"
HEADLINES = ("average_accuracy", "forgetting", "newest_accuracy")


class ExportTable(NamedTuple):
    """A grid, and its cells in bold: (row, column) from 0, without the column of names."""

    grid: Grid
    bold: frozenset[tuple[int, int]] = frozenset()


def tables_of_run(name: str, results: Results) -> list[ExportTable]:
    """Every score before the stream and after each task, the primary one first; then the metrics.

    Of a classifier also the classes that lost most, and of few tasks which were taken for which.
    """
    titles = [results.primary, *(title for title in results.scores if title != results.primary)]
    method = f"{results.label}, seed {results.seed}"
    grids = []
    for title in titles:
        scores = results.scores[title]
        rows = [(stage, [score(value, scores.unit) for value in row]) for stage, row in score_rows(results, title)]
        headings = [*results.tasks[: len(scores.matrix)], *(f"({control})" for control in scores.controls)]
        caption = f"{name}: {score_heading(title, scores)} after each task; {method}"
        grids.append(Grid(caption, headings, rows, "after"))
    metrics = [(heading, [value]) for heading, value, _ in metric_rows(results)]
    grids.append(Grid(f"{name}: metrics; {method}", ["value"], metrics, "metric"))
    named = [*lost_grids(results)[:1], *filter(None, [confusion_grid(results)])]
    grids += [grid._replace(caption=f"{name}: {grid.caption}; {method}") for grid in named]
    return [ExportTable(grid) for grid in grids]


def table_of_comparison(comparison: Comparison) -> ExportTable:
    """The methods, best average first: means ± half the interval. Bold is the best, where the verdicts support it."""
    methods = ranked(comparison)
    controls = list(dict.fromkeys(name for _, summary in methods for name in summary.controls))
    headings = [capitalized(metric_heading(metric, comparison.primary)) for metric in HEADLINES]
    headings += [f"{name} since the start" for name in controls]
    floor = reference(comparison)
    headings += [f"Average against {floor}"] if floor is not None else []
    rows = [
        (method_name(label, summary), _cells(comparison, summary, controls, floor is not None))
        for label, summary in methods
    ]
    best = {metric: shown_best(comparison, metric) for metric in HEADLINES}
    bold = {
        (row, column)
        for row, (label, _) in enumerate(methods)
        for column, metric in enumerate(HEADLINES)
        if best[metric] == label
    }
    caption = f"{comparison.name}: {over_runs(comparison)}{BOLD_MEANS if bold else ''}"
    return ExportTable(Grid(caption, [*headings, "Training time"], rows, "Method"), frozenset(bold))


def _cells(comparison: Comparison, summary: MethodSummary, controls: Sequence[str], verdicts: bool) -> list[str]:
    cells = [score_with_interval(getattr(summary, metric), comparison.unit) for metric in HEADLINES]
    for name in controls:
        change = summary.controls[name].change if name in summary.controls else None
        mean = None if change is None else change.mean
        interval = "" if change is None else score_with_interval(change, comparison.unit).partition(" ± ")[2]
        cells.append(signed(mean, comparison.unit) + (f" ± {interval}" if interval else ""))
    if verdicts:
        difference = summary.versus_sequential.get("average_accuracy")
        cells.append("" if difference is None else difference.verdict)
    return [*cells, seconds(summary.training_seconds.mean)]


def shown_best(comparison: Comparison, metric: str) -> str | None:
    """The label of the method that is better than plain fine-tuning and than every other rival in one metric.

    Better means the verdict of the corrected intervals; None where no method has it throughout. Floor and ceiling are
    references, and never the best.
    """
    rivals = [label for label, summary in comparison.methods.items() if role_of(summary.method) == "rival"]
    lower = lower_is_better(metric, comparison.higher_is_better)
    measured = [label for label in rivals if getattr(comparison.methods[label], metric).mean is not None]
    if not measured:
        return None
    best = (min if lower else max)(measured, key=lambda label: getattr(comparison.methods[label], metric).mean)
    against_floor = comparison.methods[best].versus_sequential.get(metric)
    if against_floor is None or against_floor.verdict != "better":
        return None
    wanted = {True: "better", False: "worse"}  # a pair's difference is first − second
    pairs = pairwise_differences(comparison, metric).items()
    shown = all(difference.verdict == wanted[pair[0] == best] for pair, difference in pairs if best in pair)
    return best if shown else None
