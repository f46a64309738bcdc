"""Means, intervals and verdicts over seeds.

Student's t throughout: at three to five seeds a bootstrap says "better" of equal methods in 16 to 27 % of cases, a
paired t in 5 %. Methods are compared with plain sequential fine-tuning seed by seed, and the tests of one metric are
corrected for the number of methods by Holm's rule. Orders of tasks are never pooled with seeds, which would say
"better" of equal methods in 35 % of cases: with several orders the seeds are averaged within each, and the test is over
orders; with one, a claim holds for the order that was run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum, sqrt
from typing import Literal, NamedTuple

from stockpot.evaluation.metrics import kept_fraction
from stockpot.results import Costs, Difference, Estimate, Metrics

METRIC_NAMES = tuple(Metrics.model_fields)
COST_NAMES = tuple(Costs.model_fields)
# Higher is better in these where it is in the score itself; the other metrics are changes, with a fixed sign.
SCORE_LEVELS = frozenset({"average_accuracy", "average_over_time", "plasticity", "past_accuracy", "newest_accuracy"})

Verdict = Literal["better", "worse", "no difference shown"]


RunKey = tuple[int, int]  # order, seed


def lower_is_better(metric: str, higher_scores: bool = True) -> bool:
    """Whether less of a metric or cost is better; `higher_scores`: whether higher is better in the score itself."""
    if metric in SCORE_LEVELS:
        return not higher_scores
    return metric == "forgetting" or metric in COST_NAMES


class Paired(NamedTuple):
    """A paired difference before correction: its mean, standard error, two-sided p, and the number of pairs.

    Where all differences are the same (`constant`), the standard error is 0 and there is no p.
    """

    mean: float | None
    error: float | None
    p_value: float | None
    n: int
    constant: bool = False


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error `s/√n`: None below two values, 0 where they differ only by rounding."""
    n = len(values)
    mean = fsum(values) / n
    if n < 2:
        return mean, None
    if max(values) - min(values) <= 1e-12 * max(1.0, *map(abs, values)):
        return mean, 0.0
    return mean, sqrt(fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _half_width(error: float, n: int, confidence: float) -> float:
    from scipy.special import stdtrit  # what scipy.stats calls in the end, three hundred times slower

    return float(stdtrit(n - 1, (1 + confidence) / 2)) * error


def estimate_mean(values: Sequence[float | None], confidence: float = 0.95) -> Estimate:
    """Mean and Student t interval: `mean ± t_{(1+confidence)/2, n−1} · s/√n`, over the values that are not None."""
    measured = [value for value in values if value is not None]
    if not measured:
        return Estimate(mean=None, low=None, high=None, n=0, values=list(values))
    mean, error = _moments(measured)
    low = high = None
    if error is not None:
        half = _half_width(error, len(measured), confidence) if error else 0.0
        low, high = mean - half, mean + half
    return Estimate(mean=mean, low=low, high=high, n=len(measured), values=list(values))


def over_orders(values: Mapping[RunKey, float | None]) -> list[float | None]:
    """The sample: one value per seed; with several orders, one value per order, the mean over its seeds."""
    orders = sorted({order for order, _ in values})
    if len(orders) < 2:
        return list(values.values())
    means: list[float | None] = []
    for order in orders:
        measured = [value for (other, _), value in values.items() if other == order and value is not None]
        means.append(fsum(measured) / len(measured) if measured else None)
    return means


def paired(values: Sequence[float | None], reference: Sequence[float | None]) -> Paired:
    """`values − reference`, pair by pair, and its two-sided paired t test; pairs with a None are left out."""
    differences = [
        value - other for value, other in zip(values, reference, strict=True) if value is not None and other is not None
    ]
    n = len(differences)
    if n == 0:
        return Paired(None, None, None, 0)
    mean, error = _moments(differences)
    if error is None:
        return Paired(mean, None, None, n)
    if error == 0:
        return Paired(mean, 0.0, None, n, constant=True)
    from scipy.special import stdtr

    return Paired(mean, error, float(2 * stdtr(n - 1, -abs(mean) / error)), n)


def holm_multipliers(p_values: Sequence[float]) -> list[float]:
    """The factor of Holm's step-down rule for each p, `p_holm_(k) / p_(k)`: `p_holm_(k) = max_{j≤k} (m−j+1)·p_(j)`.

    Between 1 and m. The interval at confidence `1 − α/multiplier` excludes zero exactly where `p_holm < α`.
    """
    m = len(p_values)
    multipliers = [1.0] * m
    worst = 0.0
    for rank, index in enumerate(sorted(range(m), key=p_values.__getitem__)):
        p = p_values[index]
        step = (m - rank) * p
        multipliers[index] = worst / p if worst > step else float(m - rank)
        worst = max(worst, step)
    return multipliers


def correct(
    tests: Mapping[str, Paired], lower_is_better: bool, confidence: float = 0.95, counted: bool = False
) -> dict[str, Difference]:
    """One metric's paired differences of every method, Holm-corrected, with matching intervals and verdicts.

    "better" and "worse" only where the corrected interval excludes zero. Nothing is claimed from fewer than two pairs,
    nor from differences that are the same at every seed, which show no spread, unless the quantity is `counted`: then
    it is not a sample, and a constant difference is a fact.
    """
    family = [label for label, test in tests.items() if test.n >= 2]
    # A constant difference stays in the family at p = 1: it was tested too, so the others are corrected for it.
    p_values = [1.0 if (p := tests[label].p_value) is None else p for label in family]
    multipliers = dict(zip(family, holm_multipliers(p_values), strict=True))

    def verdict(low: float, high: float) -> Verdict:
        if low <= 0 <= high:
            return "no difference shown"
        return "better" if (high < 0) == lower_is_better else "worse"

    def difference(label: str, test: Paired) -> Difference:
        mean, error, p, n, constant = test
        low = high = p_holm = None
        conclusion: Verdict = "no difference shown"
        if mean is not None and error is not None and p is not None:
            multiplier = multipliers[label]
            half = _half_width(error, n, 1 - (1 - confidence) / multiplier)
            low, high, p_holm = mean - half, mean + half, min(1.0, p * multiplier)
            conclusion = verdict(low, high)
        elif mean is not None and constant and counted:
            low = high = mean
            conclusion = verdict(low, high)
        return Difference(mean=mean, low=low, high=high, p_value=p, p_holm=p_holm, verdict=conclusion, n=n)

    return {label: difference(label, test) for label, test in tests.items()}


def kept_estimate(
    forgetting: Mapping[RunKey, float | None], sequential: Mapping[RunKey, float | None], confidence: float = 0.95
) -> Estimate:
    """The share of sequential's forgetting that was avoided, run by run: `1 − F/F_sequential`.

    All None where sequential is not shown to forget: its interval touches 0 or does not exist, or one of its runs lost
    nothing.
    """
    lost = {key: sequential.get(key) for key in forgetting}
    loss = estimate_mean(over_orders(lost), confidence)
    shown = loss.low is not None and loss.low > 0 and all(value is None or value > 0 for value in lost.values())
    return estimate_runs(
        {key: kept_fraction(f, lost[key]) if shown else None for key, f in forgetting.items()}, confidence
    )


def estimate_runs(values: Mapping[RunKey, float | None], confidence: float = 0.95) -> Estimate:
    """The estimate over orders or seeds; its `values` are all runs'."""
    estimate = estimate_mean(over_orders(values), confidence)
    return estimate.model_copy(update={"values": list(values.values())})


def paired_runs(values: Mapping[RunKey, float | None], other: Mapping[RunKey, float | None]) -> Paired:
    """The paired test on the runs that both have; with several orders, on each order's mean difference."""
    gaps: dict[RunKey, float | None] = {}
    for key, value in values.items():
        if key in other:
            reference = other[key]
            gaps[key] = None if value is None or reference is None else value - reference
    means = over_orders(gaps)
    return paired(means, [None if mean is None else 0.0 for mean in means])
