"""No method is called worse whose parameters were chosen at the end of what was tried; the report says so instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stockpot.report.answers import BEST_MEAN, against_the_best
from stockpot.report.findings import findings
from stockpot.report.pairwise import pairwise_differences
from stockpot.report.search_ends import NO_COMPARISON, chosen_at_end, chosen_keys, fair_verdict, plain_number
from stockpot.results import Comparison, Difference

Factory = Callable[..., Any]
METHODS = {"sequential": {}, "joint": {}, "sfa": {"keep": 0.6}, "wise_ft": {"keep": 0.2}}


def at(comparison: Comparison, **at_end: dict[str, float]) -> Comparison:
    assert comparison.tuning is not None
    return comparison.model_copy(update={"tuning": comparison.tuning.model_copy(update={"at_end": at_end})})


def difference(verdict: Any) -> Difference:
    return Difference(mean=0.1, low=0.05, high=0.15, p_value=0.01, p_holm=0.01, verdict=verdict, n=5)


@pytest.mark.parametrize(
    ("verdict", "ends", "shown"),
    [
        ("better", {"b"}, NO_COMPARISON),
        ("worse", {"a"}, NO_COMPARISON),
        ("better", {"a"}, "better"),
        ("worse", {"b"}, "worse"),
        ("no difference shown", {"a", "b"}, "no difference shown"),
    ],
)
def test_a_verdict_never_goes_against_a_method_at_an_end(verdict: str, ends: set[str], shown: str) -> None:
    found = fair_verdict(difference(verdict), "a", "b", dict.fromkeys(ends))
    assert found == difference(shown)


def test_a_rival_at_an_end_is_not_said_to_be_behind(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(6, METHODS, tuned=True)
    inside = at(comparison)
    assert pairwise_differences(inside, "average_accuracy")["sfa", "wise_ft"].verdict == "better"
    assert any("cannot be told apart in average accuracy: 0 of 1" in line for line in findings(inside))
    outside = at(comparison, wise_ft={"beta": 0.5})
    assert pairwise_differences(outside, "average_accuracy")["sfa", "wise_ft"].verdict == NO_COMPARISON
    lines = findings(outside)
    assert not any("told apart" in line for line in lines)
    assert (
        "Chosen at the end of what was tried, where a better value may lie beyond: WiSE-FT's beta (0.5). "
        "No comparison is made that such a method would lose." in lines
    )
    assert against_the_best(outside, "average_accuracy") == {"sfa": BEST_MEAN, "wise_ft": NO_COMPARISON}
    ahead = at(comparison, sfa={"beta": 0.5})  # a better value would only add to what is shown
    assert pairwise_differences(ahead, "average_accuracy")["sfa", "wise_ft"].verdict == "better"


def test_what_was_chosen_is_told_with_its_place(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, METHODS, tuned=True)
    comparison = at(comparison, wise_ft={"beta": 0.1})
    assert chosen_keys(comparison, "wise_ft") == "beta 0.1 (end)"
    assert chosen_keys(comparison, "sfa") == "beta 0.05"
    assert chosen_keys(comparison, "sequential") == ""
    assert [plain_number(value) for value in (1e8, 0.05, 2.5e-5, 64, True)] == ["1e8", "0.05", "2.5e-5", "64", "True"]


def test_a_file_of_before_says_what_its_trials_do(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(3, METHODS, tuned=True)
    assert comparison.tuning.at_end is None
    assert chosen_at_end(comparison) == {"sfa": {"beta": 0.05}}
