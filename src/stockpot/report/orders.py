"""Whether the order of the tasks matters: every method's average accuracy in every order, seeds averaged within."""

from __future__ import annotations

from math import fsum

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stockpot.report.figures import FIGURE_WIDTH, FLOOR, MANY_METHODS, looks, short, styled
from stockpot.report.formatting import (
    amount,
    design_of_all,
    leading,
    listing,
    metric_title,
    ranked,
    reference,
    score,
    title,
)
from stockpot.results import Comparison, MethodSummary


def per_order(comparison: Comparison) -> dict[str, list[float | None]]:
    """Label → its average accuracy in each order: the mean over its seeds, None where none was measured."""
    return {label: _means(summary, len(comparison.orders)) for label, summary in ranked(comparison)}


def _means(summary: MethodSummary, orders: int) -> list[float | None]:
    found: list[list[float]] = [[] for _ in range(orders)]
    for cell, value in zip(summary.cells, summary.average_accuracy.values, strict=True):
        if value is not None:
            found[cell.order].append(value)
    return [fsum(values) / len(values) if values else None for values in found]


def order_sentences(comparison: Comparison) -> list[str]:
    """How far the order moves each method, and whether the same one comes first; described, not tested."""
    means = per_order(comparison)
    whole = {label: [v for v in row if v is not None] for label, row in means.items() if None not in row}
    over = f"({design_of_all(comparison)})"
    if not whole:
        return []
    moved = sorted(((max(row) - min(row), label) for label, row in whole.items()), reverse=True)
    (most, mover), (least, steady) = moved[0], moved[-1]
    average = metric_title("average_accuracy", comparison.primary)
    text = f"From order to order the {average} of {title(mover)} moves by {amount(most, comparison.unit)}"
    found = [f"{text}, the most, and that of {title(steady)} by {amount(least, comparison.unit)}, the least {over}."]
    if most == least:
        found = [f"From order to order the {average} of every method moves by {amount(most, comparison.unit)} {over}."]
    plain = leading(comparison, 0)
    contenders = {label: row for label, row in whole.items() if label not in plain}
    if len(contenders) > 1:
        best = max if comparison.higher_is_better else min
        tops = [best(row[k] for row in contenders.values()) for k in range(len(comparison.orders))]
        firsts = [[label for label, row in contenders.items() if row[k] == top] for k, top in enumerate(tops)]
        always = [title(label) for label in contenders if all(label in first for first in firsts)]
        names = [title(label) for label in dict.fromkeys(label for first in firsts for label in first)]
        best_mean = (
            f"{listing(always)} {'has' if len(always) == 1 else 'have'} the best mean of the methods in every order"
            if always
            else f"Which method has the best mean goes with the order: {listing(names)}"
        )
        found.append(f"{best_mean}{_plain_is_better(comparison, whole, tops)}; described, not tested {over}.")
    return found


def _plain_is_better(comparison: Comparison, means: dict[str, list[float]], tops: list[float]) -> str:
    """In how many orders plain fine-tuning's mean is better than the best of the methods."""
    base = reference(comparison)
    if base is None or base not in means:
        return ""
    sign = 1 if comparison.higher_is_better else -1
    count = sum(sign * plain > sign * top for plain, top in zip(means[base], tops, strict=True))
    return f"; that of {title(base)} is better still in {count} of {len(tops)}" if count else ""


def order_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """The same numbers as text, a row a method and a column an order."""
    return [(label, [score(v, comparison.unit) for v in values]) for label, values in per_order(comparison).items()]


@styled
def orders_figure(comparison: Comparison) -> Figure:
    """A row a method: the number of each order at its average accuracy, tied by a line from least to most."""
    means = {label: row for label, row in per_order(comparison).items() if any(value is not None for value in row)}
    given = looks(comparison)
    height = 0.36 if len(means) <= MANY_METHODS else 0.28
    drawing = Figure(figsize=(2 * FIGURE_WIDTH, 0.9 + height * len(means)), layout="constrained")
    axes = drawing.add_subplot()
    for y, (label, row) in enumerate(means.items()):
        measured = [value for value in row if value is not None]
        axes.plot([min(measured), max(measured)], [y, y], color=given[label].color, linewidth=1.2, alpha=0.6)
        for number, value in enumerate(row):
            if value is not None:
                color, near = given[label].color, _near(row, number)
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
    axes.set_xlabel(f"{metric_title('average_accuracy', comparison.primary)} in each order of the tasks, by its number")
    return drawing


def _near(row: list[float | None], number: int) -> int:
    """Numbers above and below the line by turns along it, for neighbours would overlap."""
    place = sorted((value, k) for k, value in enumerate(row) if value is not None)
    rank = [k for _, k in place].index(number)
    return 1 if rank % 2 == 0 else -1
