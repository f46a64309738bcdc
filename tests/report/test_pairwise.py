"""Pairs of methods are tested over the runs they share, seeds averaged within orders, corrected for every pair."""

from collections.abc import Callable
from typing import Any

import pytest

from stockpot.evaluation.statistics import correct, paired
from stockpot.report.pairwise import pairwise_differences

Factory = Callable[..., Any]


def test_every_pair_but_floor_and_ceiling_is_one_family(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(4)
    found = pairwise_differences(comparison, "average_accuracy")
    assert set(found) == {("sfa", "wise_ft"), ("sfa", "replay"), ("wise_ft", "replay")}
    values = {label: comparison.methods[label].average_accuracy.values for label in ("sfa", "wise_ft", "replay")}
    tests = {f"{a} {b}": paired(values[a], values[b]) for a, b in found}
    assert {f"{a} {b}": difference for (a, b), difference in found.items()} == correct(tests, lower_is_better=False)


def test_seeds_are_averaged_within_an_order_first(comparison_of: Factory) -> None:
    """3 seeds in each of 4 orders are 4 values, not 12."""
    comparison, _ = comparison_of(3, orders=4)
    found = pairwise_differences(comparison, "forgetting")["sfa", "replay"]
    own, other = (comparison.methods[label].forgetting.values for label in ("sfa", "replay"))
    means = [(sum(own[3 * k : 3 * k + 3]) - sum(other[3 * k : 3 * k + 3])) / 3 for k in range(4)]
    assert found.n == 4 and found.mean == pytest.approx(sum(means) / 4)


def test_only_shared_runs_are_compared(comparison_of: Factory) -> None:
    comparison, _ = comparison_of(4)
    sfa = comparison.methods["sfa"]
    fewer = sfa.average_accuracy.model_copy(update={"values": sfa.average_accuracy.values[1:]})
    comparison.methods["sfa"] = sfa.model_copy(update={"cells": sfa.cells[1:], "average_accuracy": fewer})
    found = pairwise_differences(comparison, "average_accuracy")["sfa", "replay"]
    other = comparison.methods["replay"].average_accuracy.values[1:]
    assert found.n == 3 and found.mean == pytest.approx((sum(fewer.values) - sum(other)) / 3)
