"""JSON objects from strangers, one member at a time: bounded memory, and no key twice.

`json.loads` keeps the last of two equal keys. And it takes thirty times the size of `{"a":[[],[],…` in memory before
anybody can check a type. So a regular expression cuts an object into its members, which nest no deeper than headers and
indexes do, and `json` decodes one member at a time. Its possessive quantifiers (`*+`) never backtrack: time is linear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_MAX_VALUE = 1 << 20  # characters of a value, other than a string, that is parsed at once
_SPACE, _STRING = r"[ \t\r\n]*+", r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT_OBJECT = rf'\{{[^{{}}"]*+(?:{_STRING}[^{{}}"]*+)*+\}}'
_START = re.compile(rf"\{{{_SPACE}(\}}?)")
# A name, a value (a string, a number or word, or an object without objects in it), and what comes after.
_MEMBER = re.compile(rf"{_SPACE}({_STRING}){_SPACE}:{_SPACE}({_STRING}|[\w.+-]++|{_FLAT_OBJECT}){_SPACE}([,}}])")


def members(text: str) -> Iterator[tuple[str, str]]:
    """Name and JSON of every member of a JSON object, in order. Raises ValueError, also for a repeated name."""
    names: set[str] = set()
    start = _START.match(text)
    place, ended = (start.end(), bool(start[1])) if start else (0, False)
    while not ended:
        member = _MEMBER.match(text, place) if place else None
        if member is None:
            raise ValueError(f"not a JSON object of strings, numbers and flat objects: {text[place : place + 40]!r}")
        name = parse_value(member[1])
        if name in names:
            raise ValueError(f"the key {name!r} appears twice")
        names.add(name)
        yield name, member[2]
        place, ended = member.end(), member[3] == "}"
    if text[place:].strip(" \t\r\n"):
        raise ValueError(f"after its end comes {text[place : place + 40]!r}")


def string_members(text: str) -> dict[str, str]:
    """A JSON object whose values are all strings. Raises ValueError."""
    values = {name: parse_value(value) for name, value in members(text)}
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{name!r} should be a string, not {value!r}")
        f"{name}{value}".encode()  # refuses halves of surrogate pairs
    return values


def parse_value(text: str) -> Any:
    """A member's value. Raises ValueError where it is not JSON, or too long to parse at once."""
    if len(text) > _MAX_VALUE and text[0] != '"':
        raise ValueError(f"{text[:40]!r}… is longer than {_MAX_VALUE:,} characters")
    return _DECODER.decode(text)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"the key {name!r} appears twice")
        values[name] = value
    return values


def _whole_number(digits: str) -> int | float:
    """Only what can be a size or an offset stays an int; `int` of a million digits would take minutes."""
    return int(digits) if digits.isdigit() and len(digits) < 19 else float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_int=_whole_number)
