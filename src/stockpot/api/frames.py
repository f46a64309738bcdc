"""Numbers as pandas frames, with NaN for what was not measured; pandas is imported when a frame is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stockpot.errors import StockpotError, did_you_mean
from stockpot.results import START_ROW, Costs, Estimate, MethodSummary, Metrics, Results, Scores, WhatIfMethod

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T")


def named(kind: str, name: str | None, known: Mapping[str, _T], default: str) -> _T:
    """The value of that name, by default the one of `default`. Raises StockpotError for a name that is not known."""
    if name is not None and name not in known:
        raise StockpotError(f"there is no {kind} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[default if name is None else name]


def matrix_frame(scores: Scores, tasks: Sequence[str], start: bool) -> pd.DataFrame:
    """A score on every task (columns) after learning each (rows); with `start`, before the first one too."""
    rows = [scores.initial, *scores.matrix] if start else scores.matrix
    return _frame(rows, [*([START_ROW] if start else []), *tasks], list(tasks), "after", "task")


def mean_matrix(runs: Sequence[tuple[Scores, Sequence[str]]], start: bool) -> pd.DataFrame:
    """`matrix_frame`, the mean over runs of the same tasks in the same order; NaN where one of them has no score."""
    frames = [matrix_frame(scores, tasks, start) for scores, tasks in runs]
    total = frames[0]
    for frame in frames[1:]:
        total = total + frame.to_numpy()
    return total / len(frames)


def controls_frame(scores: Scores, tasks: Sequence[str]) -> pd.DataFrame:
    """A score on every control (columns) before the first task and after each (rows)."""
    columns = list(scores.controls)
    rows = [[scores.controls[name][row] for name in columns] for row in range(len(scores.matrix) + 1)]
    return _frame(rows, [START_ROW, *tasks], columns, "after", "control")


def metrics_series(metrics: Metrics) -> pd.Series:
    """A run's metrics by name."""
    import pandas as pd

    return pd.Series(metrics.model_dump(), dtype=float, name="metrics")


def changes_frame(results: Results) -> pd.DataFrame:
    """Each control's change since the start, and its worst (columns)."""
    rows = [[metrics.change, metrics.worst] for metrics in results.controls.values()]
    return _frame(rows, list(results.controls), ["change", "worst"], "control", "metric")


def costs_frame(results: Results) -> pd.DataFrame:
    """What each task cost, and the whole stream in the row `total`."""
    columns = list(Costs.model_fields)
    rows = [[getattr(costs, name) for name in columns] for costs in (*results.task_costs, results.costs)]
    return _frame(rows, [*results.tasks[: len(results.task_costs)], "total"], columns, "task", "cost")


def estimates_frame(methods: Mapping[str, MethodSummary], names: Iterable[str]) -> pd.DataFrame:
    """Methods (rows) by estimates, each with mean, low and high (columns of two levels)."""
    return _estimates(methods, list(names), getattr, "method")


def control_estimates_frame(methods: Mapping[str, MethodSummary]) -> pd.DataFrame:
    """(method, control) by `change` and `worst`, each with mean, low and high."""
    rows = {(label, name): c for label, summary in methods.items() for name, c in summary.controls.items()}
    return _estimates(rows, ["change", "worst"], getattr, ["method", "control"])


def sweeps_frame(methods: Mapping[str, WhatIfMethod]) -> pd.DataFrame:
    """(method, value) by metric, with `exact`: whether a real run gives the scores after the last task."""
    columns = list(Metrics.model_fields)
    points = {(label, point.value): point for label, method in methods.items() for point in method.points}
    rows = [[getattr(point.metrics, name) for name in columns] for point in points.values()]
    frame = _frame(rows, list(points), columns, ["method", "value"], "metric")
    frame["exact"] = [point.exact[-1] for point in points.values()]
    return frame


def _estimates(
    rows: Mapping[Any, _T], names: list[str], pick: Callable[[_T, str], Estimate], index: str | list[str]
) -> pd.DataFrame:
    ends = ("mean", "low", "high")
    values = [[getattr(pick(row, name), end) for name in names for end in ends] for row in rows.values()]
    columns = [(name, end) for name in names for end in ends]
    return _frame(values, list(rows), columns, index, ["metric", "estimate"])


def _frame(
    rows: Sequence[Sequence[float | None]],
    index: list[Any],
    columns: list[Any],
    index_name: str | list[str],
    columns_name: str | list[str],
) -> pd.DataFrame:
    import pandas as pd

    def axis(entries: list[Any], names: str | list[str]) -> pd.Index:
        if isinstance(names, str):
            return pd.Index(entries, name=names, dtype=object)
        return (
            pd.MultiIndex.from_tuples(entries, names=names)
            if entries
            else pd.MultiIndex.from_arrays([[], []], names=names)
        )

    return pd.DataFrame(
        [list(row) for row in rows], index=axis(index, index_name), columns=axis(columns, columns_name), dtype=float
    )
