"""A comparison: every method and every seed is a cell, and every cell is a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stockpot import files
from stockpot.errors import StockpotError
from stockpot.methods import joint, sequential
from stockpot.methods.base import BaseConfig
from stockpot.recipe.resolve import resolve, to_values, to_yaml
from stockpot.recipe.schema import Recipe
from stockpot.results import Results
from stockpot.runs.actions import begin, check_start, go_on
from stockpot.runs.folder import RunFolder
from stockpot.runs.progress import Progress
from stockpot.runs.session import Opened
from stockpot.training.job import Stop


@dataclass(frozen=True)
class CellPlan:
    """One run of the comparison."""

    method: BaseConfig
    seed: int
    path: Path  # relative to the comparison's folder


def contenders(recipe: Recipe) -> list[BaseConfig]:
    """The methods to compare: the recipe's list (or its method), and always plain fine-tuning and joint training."""
    chosen: list[BaseConfig] = list(recipe.compare) or [recipe.method]
    names = [method.name for method in chosen]
    if "sequential" not in names:
        chosen.insert(0, sequential.Config(name="sequential"))
    if "joint" not in names:
        chosen.append(joint.Config(name="joint"))
    return chosen


def plan(recipe: Recipe) -> list[CellPlan]:
    """All cells, seed by seed, so that an interrupted comparison is balanced."""
    return [
        CellPlan(method, seed, Path("cells") / method.title / f"seed-{seed}")
        for seed in recipe.seeds
        for method in contenders(recipe)
    ]


def prepare(recipe: Recipe, path: Path) -> Opened | None:
    """Opens the stream that all cells share; None where every cell is finished.

    Raises StockpotError for every mistake that can be known before the first cell runs.
    """
    if (path / "journal.jsonl").is_file():
        raise StockpotError(f"{path}: this is the folder of one run; choose another for the comparison with -o.")
    if path.is_dir() and any(path.iterdir()) and not (path / "cells").is_dir():
        raise StockpotError(f"{path}: the folder is not empty, and holds no comparison; choose another with -o.")
    resolved = [resolve(recipe, cell.method, cell.seed) for cell in plan(recipe)]
    folders = [path / cell.path for cell in plan(recipe)]
    for folder, wanted in zip(folders, resolved, strict=True):
        if _begun(folder) and RunFolder.open(folder).created["recipe"] != to_values(wanted):
            raise StockpotError(
                f"{folder}: this cell was run from another recipe; choose another folder with -o, or delete the cell."
            )
    if all(_begun(folder) and RunFolder.open(folder).is_finished for folder in folders):
        return None
    return check_start(resolved[0], [one.method for one in resolved if one.seeds == resolved[0].seeds])


def _begun(folder: Path) -> bool:
    return (folder / "journal.jsonl").is_file() and bool(RunFolder(folder).journal.events)


def run_cells(
    recipe: Recipe, path: Path, opened: Opened | None, *, stop: Stop, progress: Progress
) -> Iterator[tuple[CellPlan, Results]]:
    """Runs what is not finished yet, and yields every cell with its results. A finished cell is only read."""
    with files.explained(path):
        path.mkdir(parents=True, exist_ok=True)
    files.write_text(path / "recipe.yaml", to_yaml(to_values(recipe)))
    for cell in plan(recipe):
        folder = path / cell.path
        if not _begun(folder):
            begin(recipe, cell.method, cell.seed, folder, opened)
        # The recipe that the user typed names the code to build the model: running it is what was asked for.
        yield cell, go_on(folder, allow_code=True, stop=stop, progress=progress, opened=opened)
