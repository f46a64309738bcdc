"""Intervals against numbers worked by hand, and the promise of the verdicts: at most 5 % false ones."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import StockpotError
from stockpot.evaluation.method_summaries import FinishedRun, compare_methods
from stockpot.evaluation.metrics import stream_metrics
from stockpot.evaluation.statistics import (
    Paired,
    correct,
    estimate_mean,
    holm_multipliers,
    kept_estimate,
    lower_is_better,
    paired,
)
from stockpot.results import Costs, Difference, Results, Scores

# With 2 degrees of freedom the quantiles of Student's t have a closed form: (2q − 1)/√(2q(1 − q)), here at q = .975.
T_975_2 = 0.95 / (2 * 0.975 * 0.025) ** 0.5


def run(seed: int, first: float, method: str = "sequential", last: float = 0.9, higher: bool = True, **costs: int):
    """A run of two tasks, the first of which falls from 0.9 to `first`."""
    matrix = [[0.9, 0.1], [first, last]]
    scores = Scores(matrix=matrix, initial=[0.1, 0.1], higher_is_better=higher, unit="fraction")
    return Results(
        label=method,
        method={"name": method},
        scenario="class-incremental",
        tasks=["a", "b"],
        scores={"accuracy": scores},
        primary="accuracy",
        metrics=stream_metrics(scores),
        costs=Costs(**costs),
        task_costs=[],
        seed=seed,
        head={},
        versions={},
        commit=None,
        data={},
        recipe={},
    )


def cells(method: str, firsts: dict[int, float], **costs: int) -> list[tuple[int, str, Results]]:
    return [(seed, f"{method}/{seed}", run(seed, first, method, **costs)) for seed, first in firsts.items()]


def test_interval_by_hand() -> None:
    estimate = estimate_mean([1.0, 2.0, 3.0])
    half = T_975_2 * 1.0 / 3**0.5
    assert (estimate.mean, estimate.n) == (2.0, 3)
    assert estimate.low == pytest.approx(2 - half, rel=1e-8) and estimate.high == pytest.approx(2 + half, rel=1e-8)


def test_estimates_of_few_constant_and_missing_values() -> None:
    assert estimate_mean([]).model_dump() == {"mean": None, "low": None, "high": None, "n": 0, "values": []}
    single = estimate_mean([0.4])
    assert (single.mean, single.low, single.high, single.n) == (0.4, None, None, 1)
    same = estimate_mean([0.4, 0.4, 0.4])
    assert same.low == same.mean == same.high == pytest.approx(0.4)
    gap = estimate_mean([0.1, None, 0.3])
    assert gap.mean == pytest.approx(0.2) and gap.n == 2 and gap.values == [0.1, None, 0.3]


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(0.5, 0.99))
def test_the_interval_holds_the_mean_and_grows_with_confidence(values: list[float], confidence: float) -> None:
    estimate, wider = estimate_mean(values, confidence), estimate_mean(values, 0.995)
    assert estimate.low is not None and estimate.mean is not None and estimate.high is not None
    assert wider.low is not None and wider.high is not None
    assert wider.low <= estimate.low <= estimate.mean <= estimate.high <= wider.high


def test_paired_t_by_hand() -> None:
    """Differences 1, 2, 3: t = 2/(1/√3) = 3.4641 on 2 degrees of freedom; p = 1 − t/√(t²+2)."""
    test = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    t = 2 * 3**0.5
    assert test.mean == 2.0 and test.n == 3
    assert test.p_value == pytest.approx(1 - t / (t * t + 2) ** 0.5, rel=1e-9)


def test_pairs_with_a_gap_are_left_out() -> None:
    assert paired([1.0, None, 3.0], [0.0, 0.0, None]) == Paired(1.0, None, None, 1)
    assert paired([None], [1.0]) == Paired(None, None, None, 0)


def test_holm_by_hand() -> None:
    """.005·4 = .02, .01·3 = .03, .03·2 = .06, .04·1 < .06 and so .06."""
    p = [0.01, 0.04, 0.03, 0.005]
    assert [p_i * m for p_i, m in zip(p, holm_multipliers(p), strict=True)] == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p_values: list[float]) -> None:
    m = len(p_values)
    multipliers = holm_multipliers(p_values)
    assert all(1 - 1e-9 <= multiplier <= m + 1e-9 for multiplier in multipliers)
    adjusted = [p * multiplier for p, multiplier in zip(p_values, multipliers, strict=True)]
    ordered = [adjusted[i] for i in sorted(range(m), key=p_values.__getitem__)]
    assert all(a <= b + 1e-12 for a, b in pairwise(ordered))


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(-1, 3, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_interval_excludes_zero_exactly_where_holm_rejects(samples: list[list[float]]) -> None:
    tests = {str(k): paired(sample, [0.0] * 4) for k, sample in enumerate(samples)}
    for difference in correct(tests, lower_is_better=False).values():
        if difference.p_holm is None or abs(difference.p_holm - 0.05) < 1e-9:
            continue
        assert difference.low is not None and difference.high is not None and difference.mean is not None
        assert (difference.low > 0 or difference.high < 0) == (difference.p_holm < 0.05)
        expected = "no difference shown" if difference.p_holm >= 0.05 else "better" if difference.mean > 0 else "worse"
        assert difference.verdict == expected


def test_one_method_alone_is_not_corrected() -> None:
    difference = correct({"a": paired([1.0, 2.0, 3.0], [0.0] * 3)}, lower_is_better=False)["a"]
    assert difference.low == pytest.approx(2 - T_975_2 / 3**0.5) and difference.p_holm == difference.p_value


def test_correction_widens_and_can_undo_a_verdict() -> None:
    sample = [1.2, 2.0, 3.0]
    alone = correct({"a": paired(sample, [0.2] * 3)}, lower_is_better=False, confidence=0.9)["a"]
    among = {"a": paired(sample, [0.2] * 3), **{f"n{k}": paired([0.1 * k, -0.1, 0.05], [0.0] * 3) for k in range(3)}}
    corrected = correct(among, lower_is_better=False, confidence=0.9)["a"]
    assert alone.verdict == "better" and corrected.verdict == "no difference shown"
    assert alone.low is not None and corrected.low is not None and corrected.low < 0 < alone.low


def test_false_verdicts_are_rare_when_all_methods_are_equal() -> None:
    """Three seeds, four equal methods against a shared reference: some verdict falls in at most 5 % of comparisons."""
    generator = np.random.default_rng(7)
    trials, false = 800, 0
    for _ in range(trials):
        reference = generator.normal(size=3).tolist()
        tests = {str(k): paired(generator.normal(size=3).tolist(), reference) for k in range(4)}
        false += any(
            difference.verdict != "no difference shown" for difference in correct(tests, lower_is_better=False).values()
        )
    assert false / trials <= 0.05 + 2 * (0.05 * 0.95 / trials) ** 0.5


def test_a_single_uncorrected_test_errs_in_5_percent() -> None:
    generator = np.random.default_rng(11)
    trials = 1500
    false = sum(
        correct({"a": paired(generator.normal(size=4).tolist(), [0.0] * 4)}, lower_is_better=True)["a"].verdict
        != "no difference shown"
        for _ in range(trials)
    )
    assert abs(false / trials - 0.05) <= 3 * (0.05 * 0.95 / trials) ** 0.5


def test_a_real_difference_is_found() -> None:
    tests = {"a": paired([0.90, 0.91, 0.89], [0.50, 0.52, 0.49]), "b": paired([0.5, 0.53, 0.48], [0.50, 0.52, 0.49])}
    differences = correct(tests, lower_is_better=False)
    assert differences["a"].verdict == "better" and differences["b"].verdict == "no difference shown"
    assert correct(tests, lower_is_better=True)["a"].verdict == "worse"


@pytest.mark.parametrize("values", [[0.3, 0.3, 0.3], [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0, 0.0]])
def test_constant_differences_of_scores_claim_nothing(values: list[float]) -> None:
    difference = correct({"a": paired(values, [0.0] * 3)}, lower_is_better=False)["a"]
    assert difference.verdict == "no difference shown" and difference.n == 3
    assert difference.low is difference.high is difference.p_value is difference.p_holm is None
    assert difference.mean == pytest.approx(values[0])


def test_constant_differences_of_counted_bytes_are_facts() -> None:
    tests = {"a": paired([5.0, 5.0], [0.0, 0.0]), "b": paired([0.0, 0.0], [0.0, 0.0])}
    differences = correct(tests, lower_is_better=True, counted=True)
    assert (differences["a"].low, differences["a"].high, differences["a"].verdict) == (5.0, 5.0, "worse")
    assert differences["b"].verdict == "no difference shown" and differences["b"].p_value is None


def test_a_constant_difference_still_counts_in_the_family() -> None:
    """It was tested too: the other method pays for two looks, not one."""
    real = paired([1.0, 2.0, 3.0], [0.0] * 3)
    difference = correct({"real": real, "constant": paired([1.0] * 3, [0.0] * 3)}, lower_is_better=False)["real"]
    assert difference.p_value is not None and difference.p_holm == pytest.approx(2 * difference.p_value)


def test_one_seed_claims_nothing() -> None:
    difference = correct({"a": paired([0.9], [0.1])}, lower_is_better=False)["a"]
    expected = Difference(
        mean=0.8, low=None, high=None, p_value=None, p_holm=None, verdict="no difference shown", n=1
    )  # fmt: skip
    assert difference == expected


def test_directions() -> None:
    for metric in ("forgetting", "training_seconds", "stored_bytes"):
        assert lower_is_better(metric, True) and lower_is_better(metric, False)
    for metric in ("average_accuracy", "newest_accuracy", "plasticity", "average_over_time"):
        assert not lower_is_better(metric, True) and lower_is_better(metric, False)
    for metric in ("backward_transfer", "forward_transfer"):
        assert not lower_is_better(metric, True) and not lower_is_better(metric, False)


def placed(values: list[float | None]) -> dict[tuple[int, int], float | None]:
    """One order, a seed for each value."""
    return {(0, seed): value for seed, value in enumerate(values)}


def test_kept_by_hand() -> None:
    estimate = kept_estimate(placed([0.1, 0.2, 0.05]), placed([0.8, 0.8, 0.5]))
    assert estimate.values == pytest.approx([1 - 0.1 / 0.8, 1 - 0.2 / 0.8, 1 - 0.05 / 0.5])
    assert estimate.mean == pytest.approx((0.875 + 0.75 + 0.9) / 3)


@pytest.mark.parametrize("sequential", [[0.1, -0.1, 0.05], [0.5], [0.0, 0.0, 0.0], [0.9, 0.9, 0.9, -0.01] * 6])
def test_kept_is_null_where_sequential_is_not_shown_to_forget(sequential: list[float | None]) -> None:
    estimate = kept_estimate(placed([0.01] * len(sequential)), placed(sequential))
    assert estimate.mean is None and set(estimate.values) == {None}


def test_compare_pairs_by_seed_not_by_position() -> None:
    """The seeds' own levels differ far more than the methods; only the right pairing sees the difference."""
    levels = {0: 0.1, 1: 0.4, 2: 0.7}
    base = cells("sequential", levels)
    better = cells("sfa", {s: v + 0.1 + 0.01 * s for s, v in reversed(levels.items())})
    summary = compare_methods({"sequential": base, "sfa": better})["sfa"]
    difference = summary.versus_sequential["forgetting"]
    assert difference.mean == pytest.approx(-0.11) and difference.verdict == "better" and difference.n == 3
    assert [cell.seed for cell in summary.cells] == [2, 1, 0]
    assert summary.cells[0].run == "sfa/2"


def test_compare_uses_the_seeds_in_common() -> None:
    summaries = compare_methods(
        {"sequential": cells("sequential", {0: 0.1, 1: 0.2, 2: 0.1}), "sfa": cells("sfa", {1: 0.8, 2: 0.8, 9: 0.7})}
    )
    assert summaries["sfa"].versus_sequential["average_accuracy"].n == 2
    assert summaries["sfa"].average_accuracy.n == 3
    assert summaries["sfa"].kept.values[2] is None and summaries["sfa"].kept.n in {0, 2}


def test_compare_leaves_the_reference_and_undefined_metrics_alone() -> None:
    joint = cells("joint", dict.fromkeys(range(3), 0.9))
    for _, _, results in joint:
        results.metrics = stream_metrics(results.scores["accuracy"], chained=False)
    summaries = compare_methods({"plain": cells("sequential", {0: 0.1, 1: 0.2, 2: 0.15}), "joint": joint})
    assert summaries["plain"].versus_sequential == {}  # the only method named sequential is the reference
    assert summaries["plain"].kept.values == [0.0] * 3
    assert summaries["joint"].forgetting.mean is None and summaries["joint"].kept.mean is None
    assert summaries["joint"].versus_sequential["forgetting"].mean is None
    assert summaries["joint"].versus_sequential["average_accuracy"].verdict == "better"


def test_compare_costs_and_directions_of_losses() -> None:
    base = [(s, "", run(s, 0.5 + 0.01 * s, higher=False)) for s in range(3)]
    worse = [(s, "", run(s, 2.0 + 0.1 * s, "sfa", higher=False, stored_bytes=7)) for s in range(3)]
    differences = compare_methods({"sequential": base, "sfa": worse})["sfa"].versus_sequential
    assert differences["average_accuracy"].verdict == "worse" and differences["average_accuracy"].mean is not None
    assert differences["average_accuracy"].mean > 0
    assert differences["forgetting"].verdict == "worse" and differences["backward_transfer"].verdict == "worse"
    assert differences["stored_bytes"].verdict == "worse" and "steps" not in differences


def test_compare_without_a_reference_compares_nothing() -> None:
    summary = compare_methods({"sfa": cells("sfa", {0: 0.5, 1: 0.6})})["sfa"]
    assert summary.versus_sequential == {} and summary.kept.mean is None


def test_compare_refuses_what_it_cannot_pair() -> None:
    with pytest.raises(StockpotError, match="'sfa' has no finished run"):
        compare_methods({"sfa": []})
    with pytest.raises(StockpotError, match="seed that appears twice"):
        compare_methods({"sfa": cells("sfa", {0: 0.5}) * 2})
    with pytest.raises(StockpotError, match="different scores"):
        compare_methods({"a": cells("a", {0: 0.5}), "b": [(0, "", run(0, 0.5, "b", higher=False))]})


def test_seeds_are_averaged_within_each_order_and_the_test_is_over_orders() -> None:
    """Three orders with gains .1, .2, .3 on average; within an order the seeds differ by ± .05."""
    base, better = [], []
    for order, gain in enumerate((0.1, 0.2, 0.3)):
        for seed, shift in ((0, -0.05), (1, 0.05)):
            base.append(FinishedRun(seed, "", run(seed, 0.4, last=0.5), order))
            better.append(FinishedRun(seed, "", run(seed, 0.4 + 2 * (gain + shift), "sfa", last=0.5), order))
    summary = compare_methods({"sequential": base, "sfa": better})["sfa"]
    difference = summary.versus_sequential["average_accuracy"]
    assert difference.n == summary.average_accuracy.n == 3
    assert difference.mean == pytest.approx(0.2)
    half = T_975_2 * 0.1 / 3**0.5
    assert difference.low == pytest.approx(0.2 - half) and difference.high == pytest.approx(0.2 + half)
    assert difference.verdict == "no difference shown"  # pooled, the six gains would be called better
    assert paired([gain + shift for gain in (0.1, 0.2, 0.3) for shift in (-0.05, 0.05)], [0.0] * 6).p_value < 0.01
    assert len(summary.average_accuracy.values) == 6
    assert summary.average_accuracy.mean == pytest.approx(0.45 + 0.2)
    assert [(cell.order, cell.seed) for cell in summary.cells] == [(o, s) for o in range(3) for s in range(2)]


def test_orders_are_paired_order_by_order_and_seed_by_seed() -> None:
    base = [FinishedRun(seed, "", run(seed, 0.1 * (order + 1)), order) for order in range(2) for seed in range(2)]
    sfa = [
        FinishedRun(seed, "", run(seed, 0.1 * (order + 1) + 0.2, "sfa"), order)
        for order in range(2)
        for seed in range(2)
    ]
    difference = compare_methods({"sequential": base, "sfa": [*reversed(sfa)]})["sfa"].versus_sequential[
        "average_accuracy"
    ]
    assert (difference.n, difference.mean) == (2, pytest.approx(0.1))
    fewer = compare_methods({"sequential": base, "sfa": sfa[:2]})["sfa"].versus_sequential["average_accuracy"]
    assert (fewer.n, fewer.mean) == (2, pytest.approx(0.1))  # one order in common: over its seeds


def test_a_seed_that_comes_twice_in_one_order_is_an_error() -> None:
    twice = [FinishedRun(0, "", run(0, 0.5), 1), FinishedRun(0, "", run(0, 0.5), 1)]
    with pytest.raises(StockpotError, match="appears twice"):
        compare_methods({"sequential": twice})
    compare_methods({"sequential": [FinishedRun(0, "", run(0, 0.5), 0), FinishedRun(0, "", run(0, 0.5), 1)]})
