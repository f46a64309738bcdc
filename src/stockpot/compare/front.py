"""Every method over its strength: what it keeps of the past against what it learns of the new, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stockpot.compare.cells import CellPlan, place
from stockpot.compare.running import Running
from stockpot.compare.search import with_keys
from stockpot.errors import StockpotError
from stockpot.evaluation.metrics import of_controls
from stockpot.evaluation.statistics import METRICS, estimate_runs
from stockpot.methods.base import BaseConfig
from stockpot.recipe.ranges import with_ranges
from stockpot.recipe.schema import Recipe
from stockpot.results import Cell, FrontPoint

FOLDER = Path("front")
SHOWN = ("past_accuracy", "newest_accuracy", "average_accuracy", "training_seconds", "extra_memory_bytes",
         "stored_bytes", "stored_data_bytes")  # fmt: skip


@dataclass(frozen=True)
class _Point:
    label: str
    key: str
    value: float
    cells: list[CellPlan]


def front(running: Running, methods: Sequence[BaseConfig], points: int) -> list[FrontPoint]:
    """Each method at so many strengths over its range, its other parameters as they are, in every order and with every
    seed, as the methods that are reported.

    Methods without a strength have no points.
    """
    planned = [point for method in methods for point in _points(method, points, running.recipe)]
    done = iter(running.run([cell for point in planned for cell in point.cells]))
    found = []
    for point in planned:
        results = {(cell.order, cell.seed): next(done)[1] for cell in point.cells}
        values = {
            name: estimate_runs(
                {
                    place: None if one is None else getattr(one.metrics if name in METRICS else one.costs, name)
                    for place, one in results.items()
                }
            )
            for name in SHOWN
        }
        controls = {
            place: {} if one is None else of_controls(one.scores[one.primary]) for place, one in results.items()
        }
        shared = [name for name in next(iter(controls.values()), {}) if all(name in own for own in controls.values())]
        changes = {name: estimate_runs({place: own[name].change for place, own in controls.items()}) for name in shared}
        cells = [Cell(seed=cell.seed, order=cell.order, run=cell.path.as_posix()) for cell in point.cells]
        found.append(
            FrontPoint(method=point.label, key=point.key, value=point.value, cells=cells, controls=changes, **values)
        )
    return found


def _points(method: BaseConfig, points: int, recipe: Recipe) -> list[_Point]:
    key = method.strength_key
    if key is None:
        return []
    found = []
    space = with_ranges(method.space, method, recipe.tune.ranges if recipe.tune else {})
    for value in space[key].grid(points):
        try:
            changed = with_keys(method, {key: value})
        except StockpotError:  # the size of a buffer is given by another key, for example
            return []
        folder = FOLDER / method.title / f"{key}={value:g}"
        cells = [
            CellPlan(changed, seed, folder / place(order, seed), order, keys=f"{key}={value:g}")
            for order in range(recipe.orders)
            for seed in recipe.seeds
        ]
        found.append(_Point(method.title, key, float(value), cells))
    return found
