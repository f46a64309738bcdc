"""Checks a saved state of SFA against the SFA that resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.averaging.refusals import setting_differs
from stockpot.errors import StockpotError, did_you_mean


def check_state(state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises StockpotError for a name that `state` lacks, and for a setting that differs from the saved one.

    T may differ with `every`: there it only says which step is the last.
    """
    for name in ("steps", "averages", "last_average", "anchor", *settings):
        if name not in state:
            raise StockpotError(f"this is not a state of SFA: it has no '{name}'.{did_you_mean(name, state)}")
    for name, value in settings.items():
        if name == "total_steps" and settings["every"] is not None and settings["every"] == state["every"]:
            continue
        if _ordered(value) != _ordered(state[name]):
            why = "p·total_steps says when to average; " if name == "total_steps" else ""
            raise setting_differs(name, value, state[name], "the saved state", why)


def saved_source(state: Mapping[str, Any], folder: Path | None) -> Any:
    """The anchor of the state: its tensors, or its file, which may have moved to `folder`. Raises StockpotError."""
    source = state["anchor"]
    if not isinstance(source, str) or Path(source).exists():
        return source
    if folder is not None and (folder / Path(source).name).is_file():
        return folder / Path(source).name
    raise StockpotError(f"the anchor {source} no longer exists: pass where it is now, anchor=PATH.")


def _ordered(value: object) -> object:
    """A value to compare, in which the order of patterns counts: the first match wins."""
    return list(value.items()) if isinstance(value, Mapping) else value
