"""SFA's settings are declared once, and every way into SFA takes them."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from torch import nn

from stockpot import SFA, SFACallback, StockpotError
from stockpot.averaging.lightning import SFALightning
from stockpot.averaging.settings import SFAOptions, SFASettings

NAMES = [field.name for field in fields(SFASettings)]


def test_the_options_that_type_checkers_see_are_the_settings() -> None:
    assert get_type_hints(SFAOptions) == get_type_hints(SFASettings)


@pytest.mark.parametrize("way", [SFA, SFACallback, SFALightning], ids=lambda way: way.__name__)
def test_help_lists_every_setting_with_its_default(way: Any) -> None:
    listed = inspect.signature(way).parameters
    others = set(listed) - set(NAMES)
    assert others == ({"model", "total_steps", "optimizer", "folder", "generator"} if way is SFA else set())
    for name, parameter in inspect.signature(SFASettings).parameters.items():
        assert listed[name].default == parameter.default
        assert listed[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert name in way.__doc__


@pytest.mark.parametrize("way", [lambda **settings: SFA(nn.Linear(2, 2), **settings), SFACallback, SFALightning])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 1.5, "every": 1}, r"beta must lie in \[0, 1\]"),
        ({"beta": 0.5}, "either p .* or every"),
        ({"beta": 0.5, "every": 1, "keep": "ram"}, "keep must be one of None, 'device', 'cpu', 'disk', not 'ram'"),
        ({"beta": 0.5, "every": 1, "rounding": "up"}, "rounding must be one of None, 'nearest', 'stochastic'"),
        ({"beta": 0.5, "every": 1, "buffers": "drop"}, "buffers must be one of 'average', 'keep', not 'drop'"),
    ],
)
def test_a_wrong_setting_is_refused_at_once_whatever_the_way(way: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(StockpotError, match=words):
        way(**settings)


def test_a_single_pattern_may_stand_for_a_list() -> None:
    assert SFASettings(beta=0.5, every=1, new="head.*").new == ("head.*",)
