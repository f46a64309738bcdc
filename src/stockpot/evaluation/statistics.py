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

from stockpot.errors import StockpotError
from stockpot.evaluation.metrics import control_metrics, kept_fraction
from stockpot.methods import floor_among
from stockpot.results import (
    Cell,
    ControlMetrics,
    ControlSummary,
    Costs,
    Difference,
    Estimate,
    MethodSummary,
    Metrics,
    Results,
)

METRIC_NAMES = tuple(Metrics.model_fields)
COST_NAMES = tuple(Costs.model_fields)
# Counted, not sampled: the same difference at every seed is a fact about them, and needs no test.
COUNTED = frozenset(
    {name for name in COST_NAMES if name.endswith("_bytes")} - {"peak_memory_bytes"} | {"steps", "averages"}
)
CONTROLS = tuple(ControlMetrics.model_fields)
# Steps and averages are how a method works; fewer is neither better nor worse.
COMPARED = METRIC_NAMES + tuple(name for name in COST_NAMES if name not in {"steps", "averages"})
# These carry the direction of the score itself; the other metrics are changes, and fixed in sign.
SCORE_LEVELS = frozenset({"average_accuracy", "average_over_time", "plasticity", "past_accuracy", "newest_accuracy"})

Verdict = Literal["better", "worse", "no difference shown"]


class FinishedRun(NamedTuple):
    """A finished run of a comparison; `order` is an index into its orders of the tasks."""

    seed: int
    path: str
    results: Results
    order: int = 0
    digest: str | None = None  # of its journal


RunKey = tuple[int, int]  # order, seed


def lower_is_better(metric: str, higher_scores: bool = True) -> bool:
    """Whether less of a metric or cost is better, where `higher_scores` says which way the score itself runs."""
    if metric in SCORE_LEVELS:
        return not higher_scores
    return metric == "forgetting" or metric in COST_NAMES


class Paired(NamedTuple):
    """A paired difference before correction: mean, its standard error, the two-sided p, and the pairs.

    `constant` differences have no spread to test against: their standard error is 0 and p is None.
    """

    mean: float | None
    error: float | None
    p_value: float | None
    n: int
    constant: bool = False


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the standard error of the mean: `s/√n`, None below two values, 0 where they differ by rounding only."""
    n = len(values)
    mean = fsum(values) / n
    if n < 2:
        return mean, None
    if max(values) - min(values) <= 1e-12 * max(1.0, *map(abs, values)):
        return mean, 0.0
    return mean, sqrt(fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _half_width(error: float, n: int, confidence: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, n - 1)) * error


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
    """What there is a sample of: one value a seed; with several orders one value an order, the mean over its seeds."""
    orders = sorted({order for order, _ in values})
    if len(orders) < 2:
        return list(values.values())
    found: list[float | None] = []
    for wanted in orders:
        own = [value for (order, _), value in values.items() if order == wanted and value is not None]
        found.append(fsum(own) / len(own) if own else None)
    return found


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
    from scipy.stats import t

    return Paired(mean, error, float(2 * t.sf(abs(mean) / error, n - 1)), n)


def holm_multipliers(p_values: Sequence[float]) -> list[float]:
    """By how much Holm's step-down rule multiplies each p: `p_holm_(k) = max_{j≤k} (m−j+1)·p_(j)`, over `p_(k)`.

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

    "better" and "worse" only where the corrected interval excludes zero. Fewer than two pairs, or differences that are
    the same at every seed (no spread to estimate), claim nothing; `counted` quantities that differ by the same amount
    at every seed do, for that is no sample.
    """
    family = [label for label, test in tests.items() if test.n >= 2]
    # A constant difference stays in the family at p = 1: it was looked at, and the others pay for that.
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
    """What was kept of sequential's loss, run by run: `1 − F/F_sequential`; all None where that loss is not shown.

    It is not shown where sequential's interval touches 0 or does not exist, or where one of its runs lost nothing.
    """
    lost = {place: sequential.get(place) for place in forgetting}
    loss = estimate_mean(over_orders(lost), confidence)
    shown = loss.low is not None and loss.low > 0 and all(value is None or value > 0 for value in lost.values())
    return estimate_runs(
        {place: kept_fraction(f, lost[place]) if shown else None for place, f in forgetting.items()}, confidence
    )


def estimate_runs(values: Mapping[RunKey, float | None], confidence: float = 0.95) -> Estimate:
    """The estimate over orders or seeds; its `values` are those of all runs."""
    found = estimate_mean(over_orders(values), confidence)
    return found.model_copy(update={"values": list(values.values())})


def paired_runs(own: Mapping[RunKey, float | None], other: Mapping[RunKey, float | None]) -> Paired:
    """The paired test on common runs; with several orders, of each order's mean difference."""
    gaps: dict[RunKey, float | None] = {}
    for place, value in own.items():
        if place in other:
            reference = other[place]
            gaps[place] = None if value is None or reference is None else value - reference
    means = over_orders(gaps)
    return paired(means, [None if mean is None else 0.0 for mean in means])


def _reference_label(cells: Mapping[str, Sequence[FinishedRun]], reference: str) -> str | None:
    """The reference's label: the label itself, or that of the only method of this name."""
    if reference in cells:
        return reference
    named = [label for label, runs in cells.items() if runs and runs[0].results.method.get("name") == reference]
    return named[0] if len(named) == 1 else None


def _by_place(runs: Sequence[FinishedRun], metric: str) -> dict[RunKey, float | None]:
    return {
        (run.order, run.seed): getattr(run.results.metrics if metric in METRIC_NAMES else run.results.costs, metric)
        for run in runs
    }


def compare_methods(
    given: Mapping[str, Sequence[FinishedRun | tuple[int, str, Results]]],
    reference: str = "sequential",
    confidence: float = 0.95,
) -> dict[str, MethodSummary]:
    """Every method's estimates over its seeds or orders, and its paired, corrected differences to the reference.

    `given` are runs by label. Methods are paired with the reference on their common seeds and orders; without a
    reference nothing is compared. Raises StockpotError for a label without runs, a seed that comes twice in one order
    under one label, or runs of different scores.
    """
    cells = {label: [FinishedRun(*run) for run in runs] for label, runs in given.items()}
    for label, runs in cells.items():
        seeds = [(run.order, run.seed) for run in runs]
        if not runs:
            raise StockpotError(f"Method '{label}' has no finished run.")
        if len(set(seeds)) != len(seeds):
            raise StockpotError(f"Method '{label}' has a seed that comes twice among {[seed for _, seed in seeds]}.")
    kinds = {
        (run.results.primary, run.results.scores[run.results.primary].higher_is_better)
        for runs in cells.values()
        for run in runs
    }
    if len(kinds) > 1:
        raise StockpotError("Runs of different scores cannot be compared: " + ", ".join(sorted(str(k) for k in kinds)))
    higher_scores = all(higher for _, higher in kinds)

    base = floor_among({label: runs[0].results.method for label, runs in cells.items()})
    versus: dict[str, dict[str, Difference]] = {label: {} for label in cells}
    if base is not None:
        others = [label for label in cells if label != base]
        for metric in COMPARED:
            sequential = _by_place(cells[base], metric)
            tests = {label: paired_runs(_by_place(cells[label], metric), sequential) for label in others}
            direction = lower_is_better(metric, higher_scores)
            for label, found in correct(tests, direction, confidence, counted=metric in COUNTED).items():
                versus[label][metric] = found

    controls = _controls(cells, base, confidence)
    lost = _by_place(cells[base], "forgetting") if base is not None else {}
    summaries = {}
    for label, runs in cells.items():
        estimates = {metric: estimate_runs(_by_place(runs, metric), confidence) for metric in METRIC_NAMES + COST_NAMES}
        estimates["kept"] = kept_estimate(_by_place(runs, "forgetting"), lost, confidence)
        summaries[label] = MethodSummary(
            method=runs[0].results.method,
            cells=[Cell(seed=run.seed, order=run.order, run=run.path, digest=run.digest) for run in runs],
            versus_sequential=versus[label],
            controls=controls[label],
            **estimates,
        )
    return summaries


def _controls(
    cells: Mapping[str, Sequence[FinishedRun]], base: str | None, confidence: float
) -> dict[str, dict[str, ControlSummary]]:
    """Every control that all runs have, under every method: estimates, and corrected differences to the reference."""
    measured = {
        label: {(run.order, run.seed): control_metrics(run.results.scores[run.results.primary]) for run in runs}
        for label, runs in cells.items()
    }
    every = [names for places in measured.values() for names in places.values()]
    found: dict[str, dict[str, ControlSummary]] = {label: {} for label in cells}
    for name in (name for name in every[0] if all(name in names for names in every)):
        values = {
            metric: {
                label: {place: getattr(known[name], metric) for place, known in places.items()}
                for label, places in measured.items()
            }
            for metric in CONTROLS
        }
        versus: dict[str, dict[str, Difference]] = {label: {} for label in cells}
        for metric in CONTROLS if base is not None else ():
            reference = values[metric][str(base)]
            others = {label: own for label, own in values[metric].items() if label != base}
            tests = {label: paired_runs(own, reference) for label, own in others.items()}
            for label, difference in correct(tests, lower_is_better=False, confidence=confidence).items():
                versus[label][metric] = difference
        for label in cells:
            estimates = {metric: estimate_runs(values[metric][label], confidence) for metric in CONTROLS}
            found[label][name] = ControlSummary(versus_sequential=versus[label], **estimates)
    return found
