"""The past-versus-new front: every method over its strength, and what it costs there."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.report.formatting import changes_words, design_of_groups, listing, reference, signed, title
from stockpot.report.placement import PlotPoint
from stockpot.report.tuning_section import number
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

    def beaten(own: PlotPoint) -> bool:
        return any(
            other != own and sign * other[0] >= sign * own[0] and sign * other[1] >= sign * own[1] for other in rivals
        )

    return [point for point in points if not beaten(places[id(point)])]


def front_sentences(comparison: Comparison) -> list[str]:
    """Which strengths are on the Pareto front, and what became of the controls there; described, not tested."""
    points = [point for line in curves(comparison).values() for point in line]
    found = undominated(comparison)
    if not points:
        return []
    of_all = f"the {len(points)} points" if len(points) > 1 else "the one point"
    over = f"({design_of_groups(point.cells for point in points)})"
    if not found:
        text = f"None of {of_all} is on the Pareto front: plain fine-tuning has no worse means {over}."
        return [text, *_of_controls(comparison, points, f"Over {of_all}")]
    named = [f"{title(line[0].method)} ({_values(line)})" for line in _by_method(comparison, found)]
    are = "is" if len(found) == 1 else "are"
    rivals = "point" if reference(comparison) is None else "point, nor plain fine-tuning,"
    count = f"{len(found)} of {of_all} {are}" if len(points) > 1 else "The one point is"
    text = (
        f"{count} on the Pareto front, where no other {rivals} has means as good in both and "
        f"better in one: {listing(named, 5)} {over}."
    )
    return [text, *_of_controls(comparison, found, "On the Pareto front")]


def controls(comparison: Comparison) -> list[str]:
    """The controls that every point has."""
    points = [point for line in curves(comparison).values() for point in line]
    names = points[0].controls if points else {}
    return [name for name in names if all(name in p.controls and p.controls[name].mean is not None for p in points)]


def _by_method(comparison: Comparison, points: Sequence[FrontPoint]) -> list[list[FrontPoint]]:
    """Points method by method, the one that keeps most of the past first."""
    each: dict[str, list[FrontPoint]] = {}
    for point in sorted(points, key=lambda p: p.past_accuracy.mean or 0.0, reverse=comparison.higher_is_better):
        each.setdefault(point.method, []).append(point)
    return list(each.values())


def _values(line: Sequence[FrontPoint]) -> str:
    return f"{line[0].key} = {', '.join(number(point.value) for point in line)}"


def _of_controls(comparison: Comparison, points: Sequence[FrontPoint], where: str) -> list[str]:
    base = reference(comparison)
    found = []
    for name in controls(comparison):
        parts = []
        for line in _by_method(comparison, points):
            changes = sorted(point.controls[name].mean or 0.0 for point in line)
            ends = [signed(change, comparison.unit) for change in dict.fromkeys((changes[0], changes[-1]))]
            parts.append(f"{' to '.join(ends)} after {title(line[0].method)}")
        plain = comparison.methods[base].controls.get(name) if base is not None else None
        if base is not None and plain is not None and plain.change.mean is not None:
            parts.append(f"{signed(plain.change.mean, comparison.unit)} after {title(base)}")
        over = design_of_groups(point.cells for point in points)
        found.append(f"{where}, {changes_words(name, parts)} ({over}).")
    return found


def place_of(point: FrontPoint) -> PlotPoint:
    """New across, past up."""
    x, y = point.newest_accuracy.mean, point.past_accuracy.mean
    assert x is not None and y is not None
    return x, y


def reference_places(comparison: Comparison, labels: Sequence[str]) -> dict[str, PlotPoint]:
    """Where methods without a strength stand, by label; those whose scores are not known are left out."""
    found = {}
    for label in labels:
        summary = comparison.methods[label]
        x, y = summary.newest_accuracy.mean, summary.past_accuracy.mean
        if x is not None and y is not None:
            found[label] = (x, y)
    return found
