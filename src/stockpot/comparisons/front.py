"""Every method over its strength: what it keeps of the past, what it learns of the new, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stockpot.comparisons.cells import CellPlan, cell_folder
from stockpot.comparisons.running import CellRunner
from stockpot.comparisons.search import with_keys
from stockpot.errors import StockpotError
from stockpot.evaluation.metrics import control_metrics
from stockpot.evaluation.statistics import METRIC_NAMES, estimate_runs
from stockpot.methods.base import BaseConfig
from stockpot.recipe.ranges import with_ranges
from stockpot.recipe.schema import Recipe
from stockpot.results import Cell, Estimate, FrontPoint, Results

FRONT_FOLDER = Path("front")
SHOWN = ("past_accuracy", "newest_accuracy", "average_accuracy", "training_seconds", "extra_memory_bytes",
         "stored_bytes", "stored_data_bytes", "stored_model_bytes", "stored_statistics_bytes")  # fmt: skip


@dataclass(frozen=True)
class _Point:
    label: str
    key: str
    value: float
    cells: list[CellPlan]


def run_front(running: CellRunner, methods: Sequence[BaseConfig], points: int) -> list[FrontPoint]:
    """Runs each method at `points` strengths over its range, in every order and with every seed that is reported.

    Its other parameters stay as they are. Methods without a strength have no points.
    """
    planned = [point for method in methods for point in _points(method, points, running.recipe)]
    done = iter(running.run([cell for point in planned for cell in point.cells]))
    measured = []
    for point in planned:
        results = {(cell.order, cell.seed): next(done)[1] for cell in point.cells}
        cells = [Cell(seed=cell.seed, order=cell.order, run=cell.path.as_posix()) for cell in point.cells]
        measured.append(point_of(point.label, point.key, point.value, cells, results))
    return measured


def point_of(
    label: str, key: str, value: float, cells: Sequence[Cell], results: Mapping[tuple[int, int], Results | None]
) -> FrontPoint:
    """A method at one strength, from the results of its runs by order and seed."""

    def estimated(read: Callable[[Results], float | None]) -> Estimate:
        return estimate_runs({place: None if run is None else read(run) for place, run in results.items()})

    controls = [control_metrics(run.scores[run.primary]) for run in results.values() if run is not None]
    shared = [name for name in (controls[0] if controls else {}) if all(name in known for known in controls)]
    values = {
        name: estimated(lambda run, name=name: getattr(run.metrics if name in METRIC_NAMES else run.costs, name))  # type: ignore[misc]
        for name in SHOWN
    }
    changes = {
        name: estimated(lambda run, name=name: control_metrics(run.scores[run.primary])[name].change)  # type: ignore[misc]
        for name in shared
    }
    return FrontPoint(method=label, key=key, value=value, cells=list(cells), controls=changes, **values)


def _points(method: BaseConfig, points: int, recipe: Recipe) -> list[_Point]:
    key = method.varied_key
    if key is None:
        return []
    planned = []
    space = with_ranges(method.space, method, recipe.tune.ranges if recipe.tune else {})
    for value in space[key].grid(points):
        try:
            changed = with_keys(method, {key: value})
        except StockpotError:  # for example, a buffer whose size another key gives
            return []
        folder = FRONT_FOLDER / method.title / f"{key}={value:g}"
        cells = [
            CellPlan(changed, seed, folder / cell_folder(order, seed), order, keys=f"{key}={value:g}")
            for order in range(recipe.orders)
            for seed in recipe.seeds
        ]
        planned.append(_Point(method.title, key, float(value), cells))
    return planned
