"""`tune.ranges`: where a search for parameters starts, by a method's label or name and by parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import ValidationError

from stockpot.errors import did_you_mean
from stockpot.methods.base import BaseConfig
from stockpot.methods.declare.space import Choices, Range, Space

Ranges = Mapping[str, Mapping[str, Sequence[float]]]  # label or name → parameter → low and high


def with_ranges(space: Space, method: BaseConfig, ranges: Ranges) -> Space:
    """A method's space with the recipe's ranges in it; ranges for its label come before those for its name."""
    ends = {**ranges.get(method.name, {}), **ranges.get(method.title, {})}
    return {
        key: replace(values, low=float(ends[key][0]), high=float(ends[key][1]))
        if key in ends and isinstance(values, Range)
        else values
        for key, values in space.items()
    }


def check_ranges(ranges: Ranges, methods: Sequence[BaseConfig]) -> None:
    """Raises ValueError for a method or parameter that is not searched, and for a range that is not valid."""
    for label, keys in ranges.items():
        matching = [method for method in methods if label in (method.title, method.name)]
        if not matching:
            known = list(dict.fromkeys(name for method in methods for name in (method.title, method.name)))
            raise ValueError(
                f"tune.ranges: no compared method is called {label!r}.{did_you_mean(label, known)} "
                f"Compared: {', '.join(known)}"
            )
        for key, ends in keys.items():
            _check_range(f"tune.ranges.{label}.{key}", key, ends, matching)


def _check_range(where: str, key: str, ends: Sequence[float], methods: Sequence[BaseConfig]) -> None:
    searching = [method for method in methods if key in method.searched()]
    if not searching:
        raise ValueError(f"{where}: {_not_searched(key, methods)}")
    for method in searching:
        values = method.searched()[key]
        if isinstance(values, Choices):
            raise ValueError(f"{where}: it has no range; it is one of {', '.join(map(str, values.values))}")
        low, high = ends
        if not low < high:
            raise ValueError(f"{where}: the first number, {low:g}, should be less than the second, {high:g}")
        if values.log and low <= 0:
            raise ValueError(
                f"{where}: it is searched on a logarithmic scale, so it should start above 0, not at {low:g}"
            )
        least, most = values.limits
        if not least <= low < high <= most:
            raise ValueError(f"{where}: {low:g} to {high:g} goes beyond its possible values, {least:g} to {most:g}")
        for value in (low, high):
            try:
                type(method).model_validate({**method.model_dump(exclude_unset=True), key: float(value)})
            except ValidationError as error:
                raise ValueError(f"{where}: {value:g}: {error.errors()[0]['msg']}") from error


def _not_searched(key: str, methods: Sequence[BaseConfig]) -> str:
    if any(key in method.model_fields_set for method in methods):
        return "the recipe sets this key, so it is not searched; remove one of the two"
    known = list(dict.fromkeys(name for method in methods for name in method.searched()))
    if any(key in method.space for method in methods):
        return f"this key has no effect with the method's other settings, or is not tuned; searched: {known}"
    listed = ", ".join(known) or "nothing"
    return f"this parameter is not searched.{did_you_mean(key, known)} Searched: {listed}"
