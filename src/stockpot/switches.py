"""`on`, `off`, `yes` and `no`, which YAML 1.1 reads as true and false: kept as words until a field wants a bool."""

from __future__ import annotations

from typing import Any

SWITCHES = {"yes": True, "no": False, "on": True, "off": False}


class Switch(str):
    """One of SWITCHES, written in YAML without quotes: text where text is wanted, otherwise true or false."""

    __slots__ = ()


def read_switches(value: Any) -> Any:
    """The value with every Switch in it read as true or false, as YAML 1.1 does: for blocks without a schema."""
    if isinstance(value, Switch):
        return SWITCHES[value.lower()]
    if isinstance(value, dict):
        return {key: read_switches(part) for key, part in value.items()}
    if isinstance(value, list):
        return [read_switches(part) for part in value]
    return value
