"""comparison.json: the results of the cells as means, intervals and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stockpot import files
from stockpot.comparisons.cells import CellPlan, orders_of
from stockpot.evaluation.method_summaries import FinishedRun, compare_methods
from stockpot.evaluation.statistics import METRIC_NAMES
from stockpot.recipe.schema import Recipe
from stockpot.report.findings import findings
from stockpot.report.search_ends import chosen_at_end, fair_verdict
from stockpot.results import Cell, Comparison, ControlSummary, Difference, FrontPoint, MethodSummary, Results, Tuning
from stockpot.runs.journal import Journal


def summarise_comparison(
    recipe: Recipe,
    cells: Sequence[tuple[CellPlan, Results]],
    tuning: Tuning | None = None,
    front: Sequence[FrontPoint] = (),
) -> Comparison:
    """The comparison of the cells' results."""
    by_label: dict[str, list[FinishedRun]] = {}
    for cell, results in cells:
        by_label.setdefault(cell.method.title, []).append(
            FinishedRun(cell.seed, cell.path.as_posix(), results, cell.order)
        )
    first = cells[0][1]
    comparison = Comparison(
        name=recipe.name or "comparison",
        scenario=first.scenario,
        tasks=first.tasks,
        seeds=recipe.seeds,
        orders=[[task.name for task in order] for order in orders_of(recipe)],
        tuning=tuning,
        front=list(front),
        primary=first.primary,
        unit=first.scores[first.primary].unit,
        higher_is_better=first.scores[first.primary].higher_is_better,
        methods=compare_methods(by_label),
        versions=first.versions,
        commit=first.commit,
    )
    return _judged(comparison)


def recompared(recorded: Comparison, runs: dict[str, list[FinishedRun]], front: Sequence[FrontPoint]) -> Comparison:
    """The comparison with its numbers, verdicts and sentences computed again from the runs."""
    first = next(iter(runs.values()))[0].results
    scores = first.scores[first.primary]
    primary = {"primary": first.primary, "unit": scores.unit, "higher_is_better": scores.higher_is_better}
    return _judged(recorded.model_copy(update={"methods": compare_methods(runs), "front": list(front), **primary}))


def _judged(comparison: Comparison) -> Comparison:
    comparison = comparison.model_copy(update={"methods": _fair(comparison)})
    return comparison.model_copy(update={"sentences": findings(comparison)})


def _fair(comparison: Comparison) -> dict[str, MethodSummary]:
    """The methods, without verdicts against those whose parameters were chosen at an end of their range."""
    at_end = chosen_at_end(comparison)

    def fair(label: str, metric: str, difference: Difference) -> Difference:
        return fair_verdict(difference, label, "", at_end) if metric in METRIC_NAMES else difference

    def control(label: str, summary: ControlSummary) -> ControlSummary:
        versus = {key: fair_verdict(d, label, "", at_end) for key, d in summary.versus_sequential.items()}
        return summary.model_copy(update={"versus_sequential": versus})

    return {
        label: summary.model_copy(
            update={
                "versus_sequential": {key: fair(label, key, d) for key, d in summary.versus_sequential.items()},
                "controls": {name: control(label, by_control) for name, by_control in summary.controls.items()},
            }
        )
        for label, summary in comparison.methods.items()
    }


def write_comparison(comparison: Comparison, path: Path) -> Comparison:
    """Writes comparison.json, with the digests of its runs in `path`; returns what is written."""
    methods = {
        label: summary.model_copy(update={"cells": [_with_digest(cell, path) for cell in summary.cells]})
        for label, summary in comparison.methods.items()
    }
    front = [point.model_copy(update={"cells": [_with_digest(cell, path) for cell in point.cells]})
             for point in comparison.front]  # fmt: skip
    written = comparison.model_copy(update={"methods": methods, "front": front})
    files.write_json(path / "comparison.json", written.model_dump(mode="json"))
    return written


def _with_digest(cell: Cell, path: Path) -> Cell:
    journal = path / cell.run / "journal.jsonl"
    return cell.model_copy(update={"digest": Journal(journal).digest}) if journal.is_file() else cell
