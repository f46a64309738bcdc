"""The past-versus-new front: every method over its strength, and what it costs there."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.report.formatting import listing, reference, runs, title
from stockpot.report.placement import Place
from stockpot.report.tuning import number
from stockpot.results import Comparison, FrontPoint


def curves(comparison: Comparison) -> dict[str, list[FrontPoint]]:
    """Each method's measured points in order of their value, the methods in the order of the comparison."""
    points = [p for p in comparison.front if p.past_accuracy.mean is not None and p.newest_accuracy.mean is not None]
    order = dict.fromkeys([*comparison.methods, *(point.method for point in points)])
    found = {label: sorted((p for p in points if p.method == label), key=lambda p: p.value) for label in order}
    return {label: line for label, line in found.items() if line}


def undominated(comparison: Comparison) -> list[FrontPoint]:
    """The points of the Pareto front: no other, nor plain fine-tuning, has means as good in both and better in one.

    Joint training, which learns from all data at once, is no rival here.
    """
    points = [point for line in curves(comparison).values() for point in line]
    places = {id(point): place_of(point) for point in points}
    base = reference(comparison)
    rivals = [*places.values(), *reference_places(comparison, [base] if base is not None else []).values()]
    sign = 1 if comparison.higher_is_better else -1

    def beaten(own: Place) -> bool:
        return any(
            other != own and sign * other[0] >= sign * own[0] and sign * other[1] >= sign * own[1] for other in rivals
        )

    return [point for point in points if not beaten(places[id(point)])]


def sentences(comparison: Comparison) -> list[str]:
    """Which strengths of which methods are on the Pareto front; of means, so described, not tested."""
    points = sum(map(len, curves(comparison).values()))
    found = undominated(comparison)
    if not points:
        return []
    over = f"({runs(cell for point in comparison.front[:1] for cell in point.cells)})"
    if not found:
        return [f"None of the {points} points is on the Pareto front: plain fine-tuning has no worse means {over}."]
    each: dict[str, list[FrontPoint]] = {}
    for point in sorted(found, key=lambda p: p.past_accuracy.mean or 0.0, reverse=comparison.higher_is_better):
        each.setdefault(point.method, []).append(point)
    which = [
        f"{title(label)} ({line[0].key} = {', '.join(number(p.value) for p in line)})" for label, line in each.items()
    ]
    are = "is" if len(found) == 1 else "are"
    return [
        f"{len(found)} of the {points} points {are} on the Pareto front, where no other has means as good in both and "
        f"better in one: {listing(which, 5)} {over}."
    ]


def place_of(point: FrontPoint) -> Place:
    """New across, past up."""
    x, y = point.newest_accuracy.mean, point.past_accuracy.mean
    assert x is not None and y is not None
    return x, y


def reference_places(comparison: Comparison, labels: Sequence[str]) -> dict[str, Place]:
    """Where methods without a strength stand, by label; those whose scores are not known are left out."""
    found = {}
    for label in labels:
        summary = comparison.methods[label]
        x, y = summary.newest_accuracy.mean, summary.past_accuracy.mean
        if x is not None and y is not None:
            found[label] = (x, y)
    return found
