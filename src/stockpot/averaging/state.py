"""Whether a saved state of SFA is one, and was saved with the settings that it is loaded with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockpot.errors import StockpotError, did_you_mean


def check_state(state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises StockpotError for a name that `state` lacks, and for a setting that differs from the saved one."""
    for name in ("steps", "averages", "last_average", "anchor", *settings):
        if name not in state:
            raise StockpotError(f"this is no state of SFA: it has no '{name}'.{did_you_mean(name, state)}")
    for name, value in settings.items():
        if _ordered(value) != _ordered(state[name]):
            raise StockpotError(f"{name} is {value!r} here and {state[name]!r} in the saved state; make them one.")


def _ordered(value: object) -> object:
    """The order of patterns counts: the first match wins."""
    return list(value.items()) if isinstance(value, Mapping) else value
