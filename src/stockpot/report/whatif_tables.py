"""The tables of a sweep over a run's checkpoints: each method at its best value and at its knee, and every value."""

from __future__ import annotations

from typing import NamedTuple

from stockpot.evaluation.metrics import average_accuracy, control_metrics, newest_accuracy, past_accuracy
from stockpot.report.formatting import MISSING, listing, opening, score, signed
from stockpot.results import Scores, WhatIf, WhatIfMethod, WhatIfPoint

PLAIN, START = "plain fine-tuning", "start model"
SYMBOLS = {"alpha": "α", "scale": "λ"}
WHATIF_HEADINGS = ("best", "average", "earlier tasks", "newest task", "knee", "earlier tasks", "newest task")
NO_KNEE = "straight"  # no value lies beyond the line between the ends of the trade-off
NOTHING_TRADED = "no trade"  # one value is best on earlier tasks and on the newest


class WhatIfRow(NamedTuple):
    """One method at its best value and at its knee."""

    name: str
    values: list[str]  # in the order of WHATIF_HEADINGS
    controls: list[str]  # each one's change since the start, at the best value
    real: str  # of which of the two values a real run gives the scores


def valued(method: WhatIfMethod, point: WhatIfPoint) -> str:
    """`"α = 0.3"`; the dash if the method has no strength."""
    return MISSING if method.key is None else f"{SYMBOLS.get(method.key, method.key)} = {point.value:g}"


def is_exact(point: WhatIfPoint) -> bool:
    """Whether a real run gives the scores after the last task."""
    return point.exact[-1]


def by_rank(whatif: WhatIf) -> list[tuple[str, WhatIfMethod]]:
    """The methods by the average accuracy at their best value, best first."""

    def average(item: tuple[str, WhatIfMethod]) -> float:
        mean = item[1].points[item[1].best].metrics.average_accuracy
        assert mean is not None, "every task was evaluated"
        return -mean if whatif.plain.higher_is_better else mean

    return sorted(whatif.methods.items(), key=average)


def signed_change(scores: Scores, control: str, unit: str) -> str:
    """A control's change since the start, positive for better; the dash if it was not measured."""
    known = control_metrics(scores)
    return signed(known[control].change if control in known else None, unit)


def whatif_rows(whatif: WhatIf) -> list[WhatIfRow]:
    """Plain fine-tuning and the start model, then the methods, best first."""

    def written(*values: float | None) -> list[str]:
        return [score(value, whatif.unit) for value in values]

    plain, controls = whatif.plain_metrics, list(whatif.plain.controls)
    start = [whatif.start] * len(whatif.start)  # the last row is what these three metrics read
    plain_scores = written(plain.average_accuracy, plain.past_accuracy, plain.newest_accuracy)
    start_scores = written(average_accuracy(start), past_accuracy(start), newest_accuracy(start))
    plain_changes = [signed_change(whatif.plain, control, whatif.unit) for control in controls]
    no_change = [score(0.0, whatif.unit)] * len(controls)
    rows = [
        WhatIfRow(name, [MISSING, *scores, MISSING, MISSING, MISSING], changes, MISSING)
        for name, scores, changes in ((PLAIN, plain_scores, plain_changes), (START, start_scores, no_change))
    ]
    for name, method in by_rank(whatif):
        best = method.points[method.best]
        at_knee = None if method.knee is None else method.points[method.knee]
        m, k = best.metrics, at_knee.metrics if at_knee is not None else None
        values = [_best_value(method), *written(m.average_accuracy, m.past_accuracy, m.newest_accuracy)]
        values += [_knee_value(method, whatif), *(written(k.past_accuracy, k.newest_accuracy) if k else [MISSING] * 2)]
        changes = [signed_change(best.scores, control, whatif.unit) for control in controls]
        rows.append(WhatIfRow(opening(name), values, changes, _real(best, at_knee)))
    return rows


def _best_value(method: WhatIfMethod) -> str:
    """`"λ = 0.4 (or 0.5)"`: the value of the best average, and those that equal it; `"λ = 1 (only)"` if it is alone."""
    best = method.points[method.best]
    if method.key is None:
        return MISSING
    if len(method.points) == 1:
        return f"{valued(method, best)} (only)"
    average = best.metrics.average_accuracy
    equal = [f"{p.value:g}" for p in method.points if p is not best and p.metrics.average_accuracy == average]
    return f"{valued(method, best)}{f' (or {listing(equal)})' if equal else ''}"


def _knee_value(method: WhatIfMethod, whatif: WhatIf) -> str:
    if method.key is None or len(method.points) == 1:
        return MISSING
    if method.knee is not None:
        return valued(method, method.points[method.knee])
    pick = max if whatif.plain.higher_is_better else min
    both = [(p.metrics.past_accuracy or 0.0, p.metrics.newest_accuracy or 0.0) for p in method.points]
    untraded = (pick(past for past, _ in both), pick(newest for _, newest in both)) in both
    return NOTHING_TRADED if untraded else NO_KNEE


def _real(best: WhatIfPoint, at_knee: WhatIfPoint | None) -> str:
    """Whether a real run gives the scores of the row: at the best value, at the knee, at both."""
    exact = [is_exact(point) for point in (best, at_knee) if point is not None]
    if len(set(exact)) == 1:
        return "exact" if exact[0] else "post-hoc"
    return "best only" if exact[0] else "knee only"


def point_rows(method: WhatIfMethod, whatif: WhatIf) -> list[tuple[str, list[str]]]:
    """Every value of a method after the last task: four metrics, the controls, and what is exact."""
    rows, unit = [], whatif.unit
    for point in method.points:
        m = point.metrics
        scores = [m.average_accuracy, m.past_accuracy, m.newest_accuracy, m.forgetting]
        changes = [signed_change(point.scores, control, unit) for control in whatif.plain.controls]
        real = "exact" if is_exact(point) else f"exact to task {sum(point.exact)}"
        rows.append((valued(method, point), [*(score(value, unit) for value in scores), *changes, real]))
    return rows
