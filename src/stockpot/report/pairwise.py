"""Which methods can be told apart from one another, not only from plain fine-tuning."""

from __future__ import annotations

from itertools import combinations

from stockpot.evaluation.statistics import RunKey, correct, lower_is_better, paired_runs
from stockpot.methods import role_of
from stockpot.report.search_ends import chosen_at_end, fair_verdict
from stockpot.results import Comparison, Difference, Estimate, MethodSummary


def pairwise_differences(comparison: Comparison, metric: str) -> dict[tuple[str, str], Difference]:
    """The paired difference, first − second, of every pair of methods, Holm-corrected over all the pairs.

    Only runs that both methods have are paired; with several orders, seeds are averaged within each first. Floor,
    ceiling and methods without the metric are left out. No verdict is against a method that was tuned to an end.
    """
    measured = [
        label
        for label, summary in comparison.methods.items()
        if role_of(summary.method) == "rival" and getattr(summary, metric).mean is not None
    ]
    values = {
        label: _values(comparison.methods[label], getattr(comparison.methods[label], metric)) for label in measured
    }
    pairs = list(combinations(measured, 2))
    tests = {str(index): paired_runs(values[first], values[second]) for index, (first, second) in enumerate(pairs)}
    corrected = correct(tests, lower_is_better(metric, comparison.higher_is_better), comparison.confidence)
    at_end = chosen_at_end(comparison)
    return {pair: fair_verdict(corrected[str(index)], *pair, at_end) for index, pair in enumerate(pairs)}


def _values(summary: MethodSummary, estimate: Estimate) -> dict[RunKey, float | None]:
    return {(cell.order, cell.seed): value for cell, value in zip(summary.cells, estimate.values, strict=True)}
