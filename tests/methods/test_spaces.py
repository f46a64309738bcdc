"""What may be tuned: sets of values, and that every method's are values that it takes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from toy import config

from stockpot.methods import registry
from stockpot.methods.declare.space import Choices, Range, evenly

POSITIVE = st.floats(1e-6, 1e6)
UNIT = st.floats(0, 1, exclude_max=True)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    low, factor = draw(POSITIVE), draw(st.floats(1.001, 1e6))
    return Range(low, low * factor, log=draw(st.booleans()))


def share(one: Range, value: float) -> float:
    """The inverse of `at`."""
    if one.log:
        return math.log(value / one.low) / math.log(one.high / one.low)
    return (value - one.low) / (one.high - one.low)


@given(ranges(), UNIT)
@example(Range(0.56, 0.88, log=True), math.nextafter(1, 0))  # rounds to above 0.88
def test_a_range_is_even_in_itself_or_in_its_logarithm(one: Range, u: float) -> None:
    value = one.at(u)
    assert one.low <= value <= one.high
    assert share(one, value) == pytest.approx(u, abs=1e-9)


@given(ranges(), st.integers(2, 40))
def test_a_grid_has_both_ends_and_even_steps(one: Range, n: int) -> None:
    points = one.grid(n)
    assert (points[0], points[-1]) == (one.low, one.high)
    assert [share(one, point) for point in points] == pytest.approx([i / (n - 1) for i in range(n)], abs=1e-9)


@given(ranges())
def test_a_single_point_is_the_middle(one: Range) -> None:
    middle = math.sqrt(one.low * one.high) if one.log else (one.low + one.high) / 2
    assert one.grid(1) == pytest.approx([middle])


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(1, 1, False), (2, 1, False), (0, 1, True), (-1, 1, True), (0, math.inf, False), (math.nan, 1, False)],
)
def test_an_impossible_range_is_refused(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="low should be less than high"):
        Range(low, high, log=log)


@given(st.lists(st.integers(), min_size=1, max_size=9, unique=True), st.integers(1, 12))
def test_choices_have_equal_parts_and_an_even_grid(values: list[int], n: int) -> None:
    one = Choices(tuple(values))
    assert [one.at((i + 0.5) / len(values)) for i in range(len(values))] == values
    assert one.at(math.nextafter(1, 0)) == values[-1]
    assert one.grid(n) == evenly(values, n)


@pytest.mark.parametrize("values", [(), (1, 1)])
def test_impossible_choices_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="each only once"):
        Choices(values)


@given(st.integers(1, 60), st.integers(1, 60))
def test_items_are_taken_evenly_from_the_first_to_the_last(total: int, n: int) -> None:
    taken = evenly(range(total), n)
    assert len(taken) == len(set(taken)) == min(n, total)
    if n == 1:
        assert abs(taken[0] - (total - 1) / 2) <= 0.5
    else:
        assert (taken[0], taken[-1]) == (0, total - 1)
        steps = {after - before for before, after in itertools.pairwise(taken)}
        assert not steps or max(steps) - min(steps) <= 1


def test_sets_of_values_do_not_change() -> None:
    for one in (Range(0, 1), Choices((1, 2))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, dataclasses.fields(one)[0].name, 2)


@pytest.mark.parametrize("name", registry())
def test_every_method_says_which_keys_it_may_be_tuned_by(name: str) -> None:
    method = registry()[name].config_type
    assert {"space", "strength_key"}.isdisjoint(method.model_fields)
    assert set(method.space) <= set(method.model_fields)
    assert (method.strength_key is None) == (not method.space)  # what has anything to tune has a strength
    assert method.strength_key is None or isinstance(method.space[method.strength_key], Range)


@pytest.mark.parametrize("name", registry())
def test_a_default_lies_inside_its_range(name: str) -> None:
    """A search that could not find the default again would compare a method with worse than itself."""
    method = registry()[name].config_type
    for key, one in method.space.items():
        default = method.model_fields[key].default
        if isinstance(one, Choices):
            assert default in one.values
        elif default is not None:
            assert one.low < default < one.high


@pytest.mark.parametrize("name", registry())
def test_a_key_that_the_user_sets_is_never_searched(name: str) -> None:
    searched = config(name).searched()
    for key, one in searched.items():
        fixed = config(name, **{key: one.grid(1)[0]})
        assert dict(fixed.searched()) == {other: values for other, values in searched.items() if other != key}


@pytest.mark.parametrize(
    ("name", "keys", "searched"),
    [
        ("sfa", {}, {"beta", "p"}),
        ("sfa", {"every": 3}, {"beta"}),
        ("sfa", {"beta": {"*": 0.25}}, {"p"}),
        ("ewc", {}, {"strength"}),
        ("ewc", {"mode": "summed"}, {"strength"}),
        ("ewc", {"mode": "online"}, {"strength", "gamma"}),
        ("replay", {}, set()),
        ("replay", {"count": 5, "mix": "batch"}, {"per_batch"}),
        ("replay", {"loss": "der++"}, {"logits_weight", "labels_weight", "per_batch"}),
        ("replay", {"loss": "der++", "labels_weight": 0.0}, {"logits_weight", "per_batch"}),
        ("agem", {}, set()),
        ("dare", {"elect": True}, {"scale", "density"}),
        ("sequential", {}, set()),
    ],
)
def test_a_key_that_would_change_nothing_is_not_searched(name: str, keys: dict[str, Any], searched: set[str]) -> None:
    assert set(config(name, **keys).searched()) == searched


def test_how_much_of_the_past_is_kept_has_a_front_but_is_not_tuned() -> None:
    for name in ("replay", "agem"):
        method = registry()[name].config_type
        assert "fraction" in method.space
        assert "fraction" not in config(name).searched()
