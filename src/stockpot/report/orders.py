"""Whether the order of the tasks matters: every method's average accuracy in each order, averaged over its seeds."""

from __future__ import annotations

from math import fsum

from stockpot.methods import role_of
from stockpot.report.formatting import MISSING, amount, listing, metric_heading, score, title
from stockpot.report.ranking import design_of_all, ranked, reference
from stockpot.report.tables import Grid
from stockpot.results import Comparison, MethodSummary


def per_order(comparison: Comparison) -> dict[str, list[float | None]]:
    """Label → its average accuracy in each order: the mean over seeds, None where none was measured."""
    return {label: _means(summary, len(comparison.orders)) for label, summary in ranked(comparison)}


def _means(summary: MethodSummary, orders: int) -> list[float | None]:
    by_order: list[list[float]] = [[] for _ in range(orders)]
    for cell, value in zip(summary.cells, summary.average_accuracy.values, strict=True):
        if value is not None:
            by_order[cell.order].append(value)
    return [fsum(values) / len(values) if values else None for values in by_order]


def order_facts(comparison: Comparison) -> list[str]:
    """Which method has the best mean in each order, without floor and ceiling; described, not tested."""
    means = {label: row for label, row in per_order(comparison).items() if None not in row}
    contenders = {label: row for label, row in means.items() if role_of(comparison.methods[label].method) == "rival"}
    if len(contenders) < 2:
        return []
    sign = 1 if comparison.higher_is_better else -1
    base = reference(comparison)
    best = []
    for k in range(len(comparison.orders)):
        scores = {label: sign * (row[k] or 0.0) for label, row in contenders.items()}
        top = max(scores.values())
        firsts = listing([title(label) for label, value in scores.items() if value == top])
        plain = means[base][k] if base in means else None
        ahead = f", behind {title(base)}" if base is not None and plain is not None and sign * plain > top else ""
        best.append(f"{k + 1} {firsts}{ahead}")
    return [f"Best mean in each order: {'; '.join(best)} (described, not tested; {design_of_all(comparison)})."]


def order_grid(comparison: Comparison) -> Grid:
    """The averages as text, a row a method and a column an order, and how far the order moves each method."""
    average = metric_heading("average_accuracy", comparison.primary)

    def moved(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return amount(max(known) - min(known), comparison.unit) if len(known) == len(values) else MISSING

    return Grid(
        f"{average} in each order: means over its seeds; {design_of_all(comparison)}",
        [*(f"order {k + 1}" for k in range(len(comparison.orders))), "moves by"],
        [(label, [*(score(value, comparison.unit) for value in values), moved(values)])
         for label, values in per_order(comparison).items()],
    )  # fmt: skip
