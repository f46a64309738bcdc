"""Which method comes first, which are the references, and how many runs stand behind a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stockpot.methods import floor_among, role_of
from stockpot.printing import counted
from stockpot.results import Cell, Comparison, MethodSummary


def reference(comparison: Comparison) -> str | None:
    """The label of plain sequential fine-tuning, with which the others are compared; None if there is none."""
    return floor_among({label: summary.method for label, summary in comparison.methods.items()})


def ranked(comparison: Comparison) -> list[tuple[str, MethodSummary]]:
    """The methods by mean average accuracy, best first, those without one last."""
    return ranked_by(comparison, "average_accuracy", lower=not comparison.higher_is_better)


def ranked_by(comparison: Comparison, metric: str, lower: bool) -> list[tuple[str, MethodSummary]]:
    """The methods by their mean in one metric, best first (`lower`: the lowest), those without one last."""

    def key(item: tuple[str, MethodSummary]) -> tuple[bool, float]:
        mean = getattr(item[1], metric).mean
        if mean is None:
            return (True, 0.0)
        return (False, mean if lower else -mean)

    return sorted(comparison.methods.items(), key=key)


def leading(comparison: Comparison, most: int) -> list[str]:
    """The labels of the best `most` methods by mean average accuracy, with floor and ceiling, best first."""
    order = [(label, role_of(summary.method) != "rival") for label, summary in ranked(comparison)]
    best = [label for label, is_reference in order if not is_reference][:most]
    return [label for label, is_reference in order if is_reference or label in best]


def run_design(cells: Iterable[Cell]) -> str:
    """The runs behind a number: `"3 seeds × 2 orders"`, `"2 to 3 seeds × 2 orders"`."""
    return design_of_groups([list(cells)])


def design_of_all(comparison: Comparison) -> str:
    """`run_design` of a whole comparison, with ranges where its methods differ."""
    return design_of_groups(summary.cells for summary in comparison.methods.values())


def design_of_groups(groups: Iterable[Sequence[Cell]]) -> str:
    """`run_design` of several groups of runs, with ranges where they differ."""
    counts, orders = set(), set()
    for cells in groups:
        numbers = [cell.order for cell in cells]
        orders.add(len(set(numbers)))
        counts |= {numbers.count(order) for order in numbers}
    counts, orders = counts or {0}, orders or {0}
    least = f"{min(counts)} to " if len(counts) > 1 else ""
    fewest = f"{min(orders)} to " if len(orders) > 1 else ""
    return f"{least}{counted(max(counts), 'seed')} × {fewest}{counted(max(orders), 'order')}"


def over_runs(comparison: Comparison) -> str:
    """`"means ± half the 95 % interval over 3 seeds × 1 order"`, or that single runs have no interval."""
    design = design_of_all(comparison)
    if not any(s.average_accuracy.low is not None for s in comparison.methods.values()):
        return f"single runs, so no intervals ({design})"
    return f"means ± half the {100 * comparison.confidence:g} % interval over {design}"
