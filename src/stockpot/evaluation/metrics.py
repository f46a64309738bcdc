"""Every metric of a stream is a pure function of its matrix.

`R[i][j]` is the score on task j after learning task i, counted from 1 to K, the number of tasks learnt (rows). Where
lower scores are better (a loss), `higher_is_better=False` turns the sign of every *change*, so that forgetting is
always "positive: worse" and transfer always "positive: better"; plain means of scores keep the sign of the score.
A metric is None where the stream is too short for it, or where a cell that it needs was not measured.
Other libraries divide backward transfer by K, or average the whole triangle; here it is the mean over the K−1 earlier
tasks, after the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum

from stockpot.results import ControlMetrics, Metrics, Scores

MatrixRow = Sequence[float | None]
Matrix = Sequence[MatrixRow]


def _mean(values: Iterable[float | None]) -> float | None:
    measured: list[float] = []
    for value in values:
        if value is None:
            return None
        measured.append(value)
    return fsum(measured) / len(measured) if measured else None


def _gain(after: float | None, before: float | None, higher_is_better: bool) -> float | None:
    """How much better `after` is than `before`, in the direction of the score."""
    if after is None or before is None:
        return None
    return after - before if higher_is_better else before - after


def average_accuracy(matrix: Matrix) -> float | None:
    """Mean score on every task learnt, after the last one: `mean_j R[K][j]`."""
    K = len(matrix)
    return _mean(matrix[-1][:K]) if K else None


def average_over_time(matrix: Matrix) -> float | None:
    """Mean over the stream of the mean score on the tasks learnt so far: `mean_i mean_{j≤i} R[i][j]`."""
    return _mean(_mean(row[: i + 1]) for i, row in enumerate(matrix))


def forgetting(matrix: Matrix, higher_is_better: bool = True) -> float | None:
    """What earlier tasks lost since their best: `mean_{j<K} (max_{j≤i<K} R[i][j] − R[K][j])`; positive is worse.

    For scores where lower is better, min takes the place of max and the sign is turned. None for a single task.
    """
    K = len(matrix)
    best = max if higher_is_better else min

    def loss(j: int) -> float | None:
        column = [matrix[i][j] for i in range(j, K - 1)]
        measured = [score for score in column if score is not None]
        return _gain(best(measured), matrix[-1][j], higher_is_better) if len(measured) == len(column) else None

    return _mean(loss(j) for j in range(K - 1))


def backward_transfer(matrix: Matrix, higher_is_better: bool = True) -> float | None:
    """How later tasks changed earlier ones: `mean_{j<K} (R[K][j] − R[j][j])`; positive is better. None for one task."""
    return _mean(_gain(matrix[-1][j], matrix[j][j], higher_is_better) for j in range(len(matrix) - 1))


def forward_transfer(matrix: Matrix, initial: MatrixRow, higher_is_better: bool = True) -> float | None:
    """How earlier tasks helped one not yet learnt: `mean_{j>1} (R[j−1][j] − initial[j])`; positive is better."""
    return _mean(_gain(matrix[j - 1][j], initial[j], higher_is_better) for j in range(1, len(matrix)))


def plasticity(matrix: Matrix) -> float | None:
    """Mean score on a task just learnt: `mean_j R[j][j]`."""
    return _mean(row[j] for j, row in enumerate(matrix))


def past_accuracy(matrix: Matrix) -> float | None:
    """Mean score on the tasks before the newest, after it: `mean_{j<K} R[K][j]`. None for a single task."""
    K = len(matrix)
    return _mean(matrix[-1][: K - 1]) if K > 1 else None


def newest_accuracy(matrix: Matrix) -> float | None:
    """Score on the newest task, just learnt: `R[K][K]`."""
    K = len(matrix)
    return matrix[-1][K - 1] if K else None


def control_change(scores: MatrixRow, higher_is_better: bool = True) -> float | None:
    """The change on data never trained on: `c[K] − c[0]`, c[0] being the start model's score; positive is better.

    For scores where lower is better the sign is turned. None before the first task.
    """
    return _gain(scores[-1], scores[0], higher_is_better) if len(scores) > 1 else None


def control_worst(scores: MatrixRow, higher_is_better: bool = True) -> float | None:
    """The lowest of these changes over the stream: `min_{i≥1} (c[i] − c[0])`; above zero no task did harm."""
    changes = [_gain(score, scores[0], higher_is_better) for score in scores[1:]]
    measured = [change for change in changes if change is not None]
    return min(measured) if measured and len(measured) == len(changes) else None


def control_metrics(scores: Scores) -> dict[str, ControlMetrics]:
    """The metrics of every control of one score."""
    return {
        name: ControlMetrics(
            change=control_change(values, scores.higher_is_better),
            worst=control_worst(values, scores.higher_is_better),
        )
        for name, values in scores.controls.items()
    }


def kept_fraction(forgetting: float | None, forgetting_sequential: float | None) -> float | None:
    """The share of sequential fine-tuning's forgetting that was avoided: `1 − F/F_sequential`.

    None where either is unknown, or where sequential fine-tuning forgot nothing.
    """
    if forgetting is None or forgetting_sequential is None or forgetting_sequential <= 0:
        return None
    return 1 - forgetting / forgetting_sequential


def stream_metrics(scores: Scores, chained: bool = True) -> Metrics:
    """All metrics of one score's matrix, in the unit of the score.

    `chained=False` is for tasks that do not start from the model of the previous one (joint training starts anew each
    time): nothing is carried over that could be forgotten, so forgetting and backward transfer are None.
    """
    R, higher = scores.matrix, scores.higher_is_better
    return Metrics(
        average_accuracy=average_accuracy(R),
        average_over_time=average_over_time(R),
        forgetting=forgetting(R, higher) if chained else None,
        backward_transfer=backward_transfer(R, higher) if chained else None,
        forward_transfer=forward_transfer(R, scores.initial, higher),
        plasticity=plasticity(R),
        past_accuracy=past_accuracy(R),
        newest_accuracy=newest_accuracy(R),
    )
