"""Which methods can be told apart from one another, not only from plain fine-tuning."""

from __future__ import annotations

from itertools import combinations

from stockpot.evaluation.statistics import correct, lower_is_better, paired
from stockpot.report.formatting import role
from stockpot.results import Comparison, Difference, Estimate, MethodSummary

Run = tuple[int, int]  # order and seed


def differences(comparison: Comparison, metric: str) -> dict[tuple[str, str], Difference]:
    """The paired difference, first − second, of every pair of methods, Holm-corrected over all the pairs.

    Pairs are made of the runs that two methods share; where several orders were run, seeds are averaged within each
    first. Floor and ceiling are left out, and so are methods without the metric.
    """
    measured = [
        label
        for label, summary in comparison.methods.items()
        if not role(summary.method) and getattr(summary, metric).mean is not None
    ]
    values = {
        label: _values(comparison.methods[label], getattr(comparison.methods[label], metric)) for label in measured
    }
    pairs = list(combinations(measured, 2))
    tests = {}
    for index, (first, second) in enumerate(pairs):
        shared = sorted(values[first].keys() & values[second].keys())
        tests[str(index)] = paired(_per_order(values[first], shared), _per_order(values[second], shared))
    found = correct(tests, lower_is_better(metric, comparison.higher_is_better), comparison.confidence)
    return {pair: found[str(index)] for index, pair in enumerate(pairs)}


def _values(summary: MethodSummary, estimate: Estimate) -> dict[Run, float]:
    cells = zip(summary.cells, estimate.values, strict=True)
    return {(cell.order, cell.seed): value for cell, value in cells if value is not None}


def _per_order(values: dict[Run, float], runs: list[Run]) -> list[float]:
    """The values of the runs; their mean in each order where there are several orders."""
    orders = sorted({order for order, _ in runs})
    if len(orders) < 2:
        return [values[run] for run in runs]
    grouped = [[values[run] for run in runs if run[0] == order] for order in orders]
    return [sum(group) / len(group) for group in grouped]
