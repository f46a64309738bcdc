"""Points of two scores of which more is better: the Pareto front, the knee, the best average. Losses come negated."""

from __future__ import annotations

from collections.abc import Sequence

ScorePoint = tuple[float, float]
TOLERANCE = 1e-9  # beyond the chord, in a plane of unit width: less is rounding


def best_index(averages: Sequence[float]) -> int:
    """The index of the highest average; the first of equals."""
    return max(range(len(averages)), key=averages.__getitem__)


def undominated_indices(points: Sequence[ScorePoint]) -> list[int]:
    """The indices of the Pareto front: the points that no other equals in both scores and exceeds in one."""

    def dominated(point: ScorePoint) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    return [index for index, point in enumerate(points) if not dominated(point)]


def knee(points: Sequence[ScorePoint]) -> int | None:
    """The index of the knee of a curve of (newest, past) scores: where giving up more of one gains least.

    Only the curve's Pareto front counts. Both axes are scaled to 0…1 over it; the chord is the straight line between
    its ends, `newest + past = 1`. The knee is the point farthest beyond the chord, the one of the largest sum; the
    first of equals. None where no point lies beyond the chord.
    """
    front = undominated_indices(points)
    xs, ys = zip(*(points[index] for index in front), strict=True)
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    if not width or not height:
        return None
    beyond = [(x - min(xs)) / width + (y - min(ys)) / height - 1 for x, y in zip(xs, ys, strict=True)]
    farthest = best_index(beyond)
    return front[farthest] if beyond[farthest] > TOLERANCE else None
