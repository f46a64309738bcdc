"""The past against the new, over every method's strength: which points are on the Pareto front, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.evaluation.pareto import ScorePoint, undominated_indices
from stockpot.report.formatting import MISSING, bytes_text, plain_number, score_with_interval, seconds, signed
from stockpot.report.method_costs import stored_words
from stockpot.report.ranking import design_of_all, design_of_groups, reference
from stockpot.report.tables import Grid
from stockpot.results import Comparison, FrontPoint

FEW_LINES, MOST_LINES = 8, 30  # methods; between them each has a panel of its own
ON_FRONT = "yes"


def curves(comparison: Comparison) -> dict[str, list[FrontPoint]]:
    """Each method's measured points by growing strength, the methods in the order of the comparison."""
    points = [p for p in comparison.front if p.past_accuracy.mean is not None and p.newest_accuracy.mean is not None]
    order = dict.fromkeys([*comparison.methods, *(point.method for point in points)])
    lines = {label: sorted((p for p in points if p.method == label), key=lambda p: p.value) for label in order}
    return {label: line for label, line in lines.items() if line}


def all_points(comparison: Comparison) -> list[FrontPoint]:
    """The points of all curves."""
    return [point for line in curves(comparison).values() for point in line]


def undominated(comparison: Comparison) -> list[FrontPoint]:
    """The points of the Pareto front, by their means. Plain fine-tuning competes, joint training does not."""
    points, base = all_points(comparison), reference(comparison)
    plain = reference_places(comparison, [base] if base is not None else []).values()
    sign = 1 if comparison.higher_is_better else -1
    front = undominated_indices([(sign * x, sign * y) for x, y in [*map(place_of, points), *plain]])
    return [points[index] for index in front if index < len(points)]


def front_facts(comparison: Comparison) -> list[str]:
    """How many points are on the Pareto front; described, not tested."""
    points, front = all_points(comparison), undominated(comparison)
    if not points:
        return []
    rivals = "point" if reference(comparison) is None else "point, nor plain fine-tuning,"
    design = design_of_groups(point.cells for point in points)
    return [
        f"On the Pareto front: {len(front)} of {len(points)}, where no other {rivals} has means as good in both and "
        f"better in one (described, not tested; {design})."
    ]


def front_grid(comparison: Comparison) -> Grid:
    """Every point: its scores, its costs, the controls' changes, and whether it is on the Pareto front."""
    unit, names = comparison.unit, controls(comparison)
    front = {id(point) for point in undominated(comparison)}
    rows = []
    for point in all_points(comparison):
        scores = [score_with_interval(point.past_accuracy, unit), score_with_interval(point.newest_accuracy, unit)]
        costs = [seconds(point.training_seconds.mean), bytes_text(point.extra_memory_bytes.mean), stored_words(point)]
        changes = [signed(point.controls[name].mean, unit) for name in names]
        on_front = ON_FRONT if id(point) in front else MISSING
        name = f"{point.method}, {point.key} {plain_number(point.value)}"
        rows.append((name, [on_front, *scores, *costs, *changes]))
    headings = ["on the front", "earlier tasks", "newest task", "training", "extra memory", "stored between tasks"]
    headings += [f"{name} since the start" for name in names]
    design = design_of_groups(point.cells for point in all_points(comparison))
    return Grid(f"Every strength of every method; {design}", headings, rows, "method, strength")


def controls(comparison: Comparison) -> list[str]:
    """The controls that every point has."""
    points = all_points(comparison)
    names = points[0].controls if points else {}
    return [name for name in names if all(name in p.controls and p.controls[name].mean is not None for p in points)]


def place_of(point: FrontPoint) -> ScorePoint:
    """(newest, past): new across, past up."""
    x, y = point.newest_accuracy.mean, point.past_accuracy.mean
    assert x is not None and y is not None
    return x, y


def reference_places(comparison: Comparison, labels: Sequence[str]) -> dict[str, ScorePoint]:
    """Label → (newest, past) of methods without a strength; those without these scores are left out."""
    places = {}
    for label in labels:
        summary = comparison.methods[label]
        x, y = summary.newest_accuracy.mean, summary.past_accuracy.mean
        if x is not None and y is not None:
            places[label] = (x, y)
    return places


def front_caption(comparison: Comparison) -> str:
    """Under the figure of all methods: only what it shows."""
    ends = ", its ends labelled" if len(curves(comparison)) <= FEW_LINES else ""
    front = " Filled marks, joined by dashes, are on the Pareto front." if undominated(comparison) else ""
    return (
        f"Up and right is better. A line runs through a method's strengths in order{ends}.{front} "
        f"Means over {design_of_all(comparison)}."
    )
