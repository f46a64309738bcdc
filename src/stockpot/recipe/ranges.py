"""Where the recipe lets a search begin: `tune.ranges`, by a method's label or name and by its parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import ValidationError

from stockpot.errors import did_you_mean
from stockpot.methods.base import BaseConfig
from stockpot.methods.declare.space import Choices, Range, Space

Ranges = Mapping[str, Mapping[str, Sequence[float]]]  # label or name → parameter → low and high


def with_ranges(space: Space, method: BaseConfig, ranges: Ranges) -> Space:
    """A method's space with the recipe's ranges in it; those of its label come before those of its name."""
    given = {**ranges.get(method.name, {}), **ranges.get(method.title, {})}
    return {
        key: replace(one, low=float(given[key][0]), high=float(given[key][1]))
        if key in given and isinstance(one, Range)
        else one
        for key, one in space.items()
    }


def check_ranges(ranges: Ranges, methods: Sequence[BaseConfig]) -> None:
    """Raises ValueError for a method or parameter that is not searched, and for a range that cannot be."""
    for label, keys in ranges.items():
        meant = [method for method in methods if label in (method.title, method.name)]
        if not meant:
            known = list(dict.fromkeys(name for method in methods for name in (method.title, method.name)))
            raise ValueError(
                f"tune.ranges: no method that is compared is called {label!r}.{did_you_mean(label, known)} "
                f"Compared: {', '.join(known)}"
            )
        for key, ends in keys.items():
            _check_range(f"tune.ranges.{label}.{key}", key, ends, meant)


def _check_range(where: str, key: str, ends: Sequence[float], methods: Sequence[BaseConfig]) -> None:
    searching = [method for method in methods if key in method.searched()]
    if not searching:
        raise ValueError(f"{where}: {_not_searched(key, methods)}")
    for method in searching:
        one = method.searched()[key]
        if isinstance(one, Choices):
            raise ValueError(f"{where}: it is one of {', '.join(map(str, one.values))}, and has no range")
        low, high = ends
        if not low < high:
            raise ValueError(f"{where}: the first number, {low:g}, should be less than the second, {high:g}")
        if one.log and low <= 0:
            raise ValueError(f"{where}: it is searched by its logarithm, and should begin above 0, not at {low:g}")
        least, most = one.limits
        if not least <= low < high <= most:
            raise ValueError(f"{where}: {low:g} to {high:g} goes beyond {least:g} to {most:g}, all that it may be")
        for value in (low, high):
            try:
                type(method).model_validate({**method.model_dump(exclude_unset=True), key: float(value)})
            except ValidationError as error:
                raise ValueError(f"{where}: {value:g}: {error.errors()[0]['msg']}") from error


def _not_searched(key: str, methods: Sequence[BaseConfig]) -> str:
    if any(key in method.model_fields_set for method in methods):
        return "the recipe sets this key, so that it is not searched; drop one of the two"
    known = list(dict.fromkeys(name for method in methods for name in method.searched()))
    if any(key in method.space for method in methods):
        return f"this key means nothing with the method's other settings, or is not tuned; searched: {known}"
    listed = ", ".join(known) or "nothing"
    return f"no such parameter is searched.{did_you_mean(key, known)} Searched: {listed}"
