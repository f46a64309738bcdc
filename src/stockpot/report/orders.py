"""Whether the order of the tasks matters: every method's average accuracy in each order, averaged over its seeds."""

from __future__ import annotations

from math import fsum

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stockpot.methods import role_of
from stockpot.report.figures import FIGURE_WIDTH, FLOOR, MANY_METHODS, looks, short, styled
from stockpot.report.formatting import MISSING, amount, listing, metric_heading, metric_title, score, title
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


@styled
def orders_figure(comparison: Comparison) -> Figure:
    """A row a method: each order's number at its average accuracy, on a line from the lowest to the highest."""
    means = {label: row for label, row in per_order(comparison).items() if any(value is not None for value in row)}
    method_looks = looks(comparison)
    height = 0.36 if len(means) <= MANY_METHODS else 0.28
    drawing = Figure(figsize=(2 * FIGURE_WIDTH, 0.9 + height * len(means)), layout="constrained")
    axes = drawing.add_subplot()
    for y, (label, row) in enumerate(means.items()):
        measured = [value for value in row if value is not None]
        axes.plot([min(measured), max(measured)], [y, y], color=method_looks[label].color, linewidth=1.2, alpha=0.6)
        for number, value in enumerate(row):
            if value is not None:
                color, near = method_looks[label].color, _near(row, number)
                axes.plot(value, y, marker=".", color=color, markersize=5)
                axes.annotate(
                    str(number + 1), (value, y), (0, 5.5 * near), textcoords="offset points", color=color,
                    ha="center", va="center", fontsize=7, fontweight="bold",
                )  # fmt: skip
    axes.set_yticks(range(len(means)), [short(label, 22) for label in means])
    axes.set_ylim(len(means) - 0.4, -0.7)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FLOOR, alpha=0.25, linewidth=0.6)
    axes.set_xlabel(
        f"{metric_title('average_accuracy', comparison.primary)} in each order of the tasks (numbers: the orders)"
    )
    return drawing


def _near(row: list[float | None], number: int) -> int:
    """Numbers alternate above and below the line: neighbours would overlap."""
    ordered = sorted((value, k) for k, value in enumerate(row) if value is not None)
    rank = [k for _, k in ordered].index(number)
    return 1 if rank % 2 == 0 else -1
