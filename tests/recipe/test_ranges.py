"""`tune.ranges`: what may be said, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from stockpot.errors import StockpotError
from stockpot.methods.declare.space import Range
from stockpot.recipe.ranges import with_ranges
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe

COMPARE = [
    {"name": "ewc"},
    {"name": "ewc", "label": "ewc-online", "mode": "online"},
    {"name": "sfa", "p": 0.25},
    {"name": "lwf"},
]


def recipe(ranges: Any) -> Recipe:
    values = {
        "model": {"build": "a:b"},
        "tasks": {"split": 2},
        "compare": COMPARE,
        "tune": {"trials": 2, "ranges": ranges},
    }
    return validate(Recipe, values, "here")


def test_a_label_comes_before_a_name() -> None:
    tune = recipe({"ewc": {"strength": [1.0, 1e9]}, "ewc-online": {"strength": [2, 4]}}).tune
    assert tune is not None
    first, online, sfa, _ = recipe({}).compare
    assert with_ranges(first.searched(), first, tune.ranges)["strength"] == Range(1, 1e9, log=True)
    assert with_ranges(online.searched(), online, tune.ranges) == {
        "strength": Range(2, 4, log=True),
        "gamma": online.space["gamma"],
    }
    assert with_ranges(sfa.searched(), sfa, tune.ranges) == sfa.searched()


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"ewd": {"strength": [1, 2]}}, r"no compared method is called 'ewd'\. Did you mean 'ewc'\?"),
        ({"ewc": {"strenght": [1, 2]}}, r"tune\.ranges\.ewc\.strenght: .*Did you mean 'strength'\?"),
        ({"sfa": {"p": [0.1, 0.2]}}, r"tune\.ranges\.sfa\.p: the recipe sets this key"),
        ({"ewc": {"strength": [5, 5]}}, r"the first number, 5, should be less than the second, 5"),
        ({"ewc": {"strength": [0, 5]}}, r"searched on a logarithmic scale, so it should start above 0"),
        ({"sfa": {"beta": [0.5, 1.5]}}, r"0\.5 to 1\.5 goes beyond its possible values, 0 to 1"),
        ({"lwf": {"temperature": [1, 2]}}, r"has no range; it is one of 1\.0, 2\.0, 4\.0"),
        ({"ewc": {"strength": [1]}}, r"strength: .*at least"),
        ({"ewc": {"strength": [1, 2, 3]}}, r"strength: .*at most"),
    ],
)
def test_mistakes_are_told_in_one_line(ranges: Any, message: str) -> None:
    with pytest.raises(StockpotError, match=message) as caught:
        recipe(ranges)
    assert "\n" not in str(caught.value) and "?." not in str(caught.value)
