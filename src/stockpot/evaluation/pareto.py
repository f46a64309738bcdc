"""Which point of a curve of two scores is worth a name: the knee, and the best on average. Losses come with −."""

from __future__ import annotations

from collections.abc import Sequence

ScorePoint = tuple[float, float]
TOUCHING = 1e-9  # in a plane of unit width: rounding alone puts no point beyond the chord


def best_index(averages: Sequence[float]) -> int:
    """The index of the highest average; of equal ones the first, which is the least strength."""
    return max(range(len(averages)), key=averages.__getitem__)


def undominated_indices(points: Sequence[ScorePoint]) -> list[int]:
    """The indices of the points that no other beats: as good in both accuracies, and better in one."""

    def beaten(point: ScorePoint) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    return [index for index, point in enumerate(points) if not beaten(point)]


def knee(points: Sequence[ScorePoint]) -> int | None:
    """The index of the knee of a curve of (newest, past) accuracies: where giving up more of one gains least.

    Of the curve only its trade-off counts, the points that no other beats in both. Both axes are brought to 0…1 over
    these; the chord is the straight line between their ends, `newest + past = 1`. The knee is the point farthest
    beyond it, the one of the largest sum; of equal ones the first. None where no point lies beyond the chord.
    """
    front = undominated_indices(points)
    xs, ys = zip(*(points[index] for index in front), strict=True)
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    if not width or not height:
        return None
    beyond = [(x - min(xs)) / width + (y - min(ys)) / height - 1 for x, y in zip(xs, ys, strict=True)]
    farthest = best_index(beyond)
    return front[farthest] if beyond[farthest] > TOUCHING else None
