"""When SFA averages: ⌊j·p·T + ½⌋, and the end."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot import StockpotError
from stockpot.averaging import average_steps
from stockpot.averaging.schedule import Schedule


@settings(deadline=None)
@given(total=st.integers(1, 3000), numerator=st.integers(1, 100), digits=st.integers(2, 4))
def test_equals_the_formula_in_exact_arithmetic(total: int, numerator: int, digits: int) -> None:
    exact = Fraction(numerator, 10**digits)
    formula = {total}
    j = 1
    while (step := max(1, math.floor(j * exact * total + Fraction(1, 2)))) <= total:
        formula.add(step)
        j += 1
    assert average_steps(total, float(exact)) == sorted(formula)


@settings(deadline=None)
@given(total=st.integers(1, 10**6), p=st.floats(1e-3, 1.0))
def test_increases_strictly_and_ends_at_the_last_step(total: int, p: float) -> None:
    steps = average_steps(total, p)
    assert steps[-1] == total
    assert steps[0] >= 1
    assert all(a < b for a, b in itertools.pairwise(steps))
    assert len(steps) <= min(total, math.ceil(1 / p) + 1)


def test_known_schedules() -> None:
    assert average_steps(1000, 0.1) == list(range(100, 1001, 100))
    assert average_steps(10, 0.3) == [3, 6, 9, 10]
    assert average_steps(10, 0.25) == [3, 5, 8, 10]
    assert average_steps(3, 1 / 6) == [1, 2, 3]
    assert average_steps(1, 0.01) == [1]
    assert average_steps(7, 1) == [7]
    assert average_steps(10**9, 0.5) == [5 * 10**8, 10**9]


def test_every_k_steps_and_the_known_end() -> None:
    assert [step for step in range(1, 11) if Schedule(every=4).due(step)] == [4, 8]
    assert [step for step in range(1, 11) if Schedule(every=4, total_steps=10).due(step)] == [4, 8, 10]


@pytest.mark.parametrize("p", [0, -0.1, 1.5, float("nan"), True, "0.1", None])
def test_p_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(StockpotError, match=r"p must lie in \(0, 1\]"):
        average_steps(10, p)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({}, "either p .* or every"),
        ({"p": 0.1, "every": 3, "total_steps": 5}, "either p .* or every"),
        ({"p": 0.1}, "p needs total_steps"),
        ({"p": 0.1, "total_steps": 0}, "total_steps must be a whole number"),
        ({"p": 0.1, "total_steps": 2.5}, "total_steps must be a whole number"),
        ({"every": 0}, "every must be a whole number"),
    ],
)
def test_contradictory_schedules_are_refused(schedule: dict[str, float], words: str) -> None:
    with pytest.raises(StockpotError, match=words):
        Schedule(**schedule)
