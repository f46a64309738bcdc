"""The cells of a comparison: one run folder for each method, order of the tasks and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stockpot.errors import StockpotError
from stockpot.methods import in_role, registry
from stockpot.methods.base import BaseConfig
from stockpot.recipe.resolve import listed_tasks, resolve, to_values
from stockpot.recipe.schema import Recipe
from stockpot.runs.folder import RunFolder
from stockpot.runs.start_checks import check_start
from stockpot.seeds import generator
from stockpot.spelling import option
from stockpot.streams.spec import TaskSpec
from stockpot.streams.stream import Stream


@dataclass(frozen=True)
class CellPlan:
    """One run of the comparison."""

    method: BaseConfig
    seed: int
    path: Path  # relative to the comparison's folder
    order: int = 0  # index into `orders_of`
    tuning: bool = False  # on the tuning split, to choose parameters
    keys: str = ""  # what a trial or a point of the front changes

    @property
    def progress_name(self) -> str:
        """Its name in progress messages."""
        words = [self.method.title, self.keys, f"order {self.order}" if self.order else "", f"seed {self.seed}"]
        return " ".join(word for word in (*words, "(tuning)" if self.tuning else "") if word)


def contenders(recipe: Recipe) -> list[BaseConfig]:
    """The methods to compare: the recipe's list (or its method), and always the floor first and the ceiling last."""
    chosen: list[BaseConfig] = list(recipe.compare) or [recipe.method]
    names = [method.name for method in chosen]
    floor, ceiling = in_role("floor"), in_role("ceiling")
    if floor not in names:
        chosen.insert(0, registry()[floor].config_type(name=floor))
    if ceiling not in names:
        chosen.append(registry()[ceiling].config_type(name=ceiling))
    return chosen


def orders_of(recipe: Recipe) -> list[list[TaskSpec]]:
    """The tasks as written, then in other orders, drawn by fixed seeds: `recipe.orders` in all.

    Raises StockpotError if the tasks have fewer orders.
    """
    tasks = listed_tasks(recipe)
    if recipe.orders > math.factorial(len(tasks)):
        raise StockpotError(
            f"orders: {len(tasks)} tasks have {math.factorial(len(tasks))} orders, not {recipe.orders}; ask for fewer."
        )
    orders, number = [list(range(len(tasks)))], 0
    while len(orders) < recipe.orders:
        drawn: list[int] = torch.randperm(len(tasks), generator=generator(0, "order", number)).tolist()
        if drawn not in orders:
            orders.append(drawn)
        number += 1
    return [[tasks[index] for index in order] for order in orders]


def plan(recipe: Recipe, methods: Sequence[BaseConfig] | None = None) -> list[CellPlan]:
    """All reported cells, seed by seed and order by order, so that an interrupted comparison is balanced."""
    return [
        CellPlan(method, seed, Path("cells") / method.title / cell_folder(order, seed), order)
        for order in range(recipe.orders)
        for seed in recipe.seeds
        for method in (contenders(recipe) if methods is None else methods)
    ]


def cell_folder(order: int, seed: int) -> Path:
    """A cell's folder below its method's; the first order has none of its own, so more orders can be added later."""
    return Path(f"order-{order}", f"seed-{seed}") if order else Path(f"seed-{seed}")


def recipe_of(recipe: Recipe, cell: CellPlan) -> Recipe:
    """The recipe with the cell's order and split, for `resolve`."""
    on = recipe.evaluation.model_copy(update={"on": "tuning"}) if cell.tuning else recipe.evaluation
    return recipe.model_copy(update={"tasks": orders_of(recipe)[cell.order], "evaluation": on})


def prepare(recipe: Recipe, path: Path) -> Stream | None:
    """Opens the stream that the reported cells share; None if every cell is finished.

    Raises StockpotError for every mistake that can be found before the first cell runs.
    """
    if (path / "journal.jsonl").is_file():
        raise StockpotError(f"{path}: this is the folder of a single run; choose another with {option('output')}.")
    if path.is_dir() and any(path.iterdir()) and not {"cells", "tuning"} & {entry.name for entry in path.iterdir()}:
        raise StockpotError(
            f"{path}: the folder is not empty and does not hold a comparison; choose another with {option('output')}."
        )
    cells = plan(recipe)
    resolved = [resolve(recipe_of(recipe, cell), cell.method, cell.seed) for cell in cells]
    if recipe.tune is None:  # else the parameters are not known yet
        check_cells(recipe, path, cells)
        if all(is_finished(path / cell.path) for cell in cells):
            return None
    return check_start(resolved[0], contenders(recipe))


def check_cells(recipe: Recipe, path: Path, cells: Sequence[CellPlan]) -> None:
    """Raises StockpotError if a cell was run already, from another recipe."""
    for cell in cells:
        folder = path / cell.path
        if is_started(folder):
            wanted = resolve(recipe_of(recipe, cell), cell.method, cell.seed)
            if RunFolder.open(folder).created["recipe"] != to_values(wanted):
                raise StockpotError(
                    f"{folder}: this cell was run from another recipe; choose another folder with "
                    f"{option('output')}, or delete the cell."
                )


def is_started(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / "journal.jsonl").is_file() and bool(RunFolder(folder).journal.events)


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a run that has learnt every task."""
    return is_started(folder) and RunFolder.open(folder).is_finished
