"""comparison.json: the cells' results as means, intervals and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stockpot import files
from stockpot.compare.cells import CellPlan
from stockpot.evaluation.statistics import compare
from stockpot.recipe.schema import Recipe
from stockpot.report.sentences import findings
from stockpot.results import Comparison, Results


def summarise(recipe: Recipe, cells: Sequence[tuple[CellPlan, Results]]) -> Comparison:
    """The comparison that the cells make."""
    by_label: dict[str, list[tuple[int, str, Results]]] = {}
    for cell, results in cells:
        by_label.setdefault(cell.method.title, []).append((cell.seed, cell.path.as_posix(), results))
    first = cells[0][1]
    comparison = Comparison(
        name=recipe.name or "comparison",
        scenario=first.scenario,
        tasks=first.tasks,
        seeds=recipe.seeds,
        primary=first.primary,
        unit=first.scores[first.primary].unit,
        higher_is_better=first.scores[first.primary].higher_is_better,
        methods=compare(by_label),
        versions=first.versions,
        commit=first.commit,
    )
    return comparison.model_copy(update={"sentences": findings(comparison)})


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Writes comparison.json."""
    files.write_json(path / "comparison.json", comparison.model_dump(mode="json"))
