"""What the values of a parameter may be: the sets that a search draws from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, on a linear scale or, with `log`, a logarithmic one.

    `limits` bound what the parameter can mean: a search may leave the range, but not the limits. Raises ValueError
    where the range is empty, infinite or beyond its limits, or with `log` not positive.
    """

    low: float
    high: float
    log: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not (self.low < self.high and math.isfinite(self.high - self.low)) or (self.log and self.low <= 0):
            raise ValueError(f"{self}: low should be less than high, both finite, and above 0 with log")
        if not self.limits[0] <= self.low < self.high <= self.limits[1]:
            raise ValueError(f"{self}: it goes beyond its limits")

    def at(self, u: float) -> float:
        """The value at the fraction u in [0, 1) of the range.

        Equation: `low + u·(high − low)`, with log `low·(high/low)^u`
        """
        value = self.low * (self.high / self.low) ** u if self.log else self.low + u * (self.high - self.low)
        return min(max(value, self.low), self.high)

    def grid(self, n: int) -> list[float]:
        """n values, evenly spaced from low to high; a single one is the middle, with log the geometric mean."""
        if n == 1:
            return [self.at(0.5)]
        return [*(self.at(i / (n - 1)) for i in range(n - 1)), self.high]

    def beyond(self, value: float, upwards: bool) -> float | None:
        """The next value to try when `value` is the outermost so far and the best; None where it is at a limit.

        A quarter of the range's width further, with `log` of its logarithm. On a linear scale half of what is left up
        to a finite limit, and the limit itself once a hundredth of the width or less would be left.
        """
        limit = self.limits[upwards]
        if value == limit:
            return None
        if self.log:
            quarter = math.sqrt(math.sqrt(self.high / self.low))
            further = value * quarter if upwards else value / quarter
        elif math.isfinite(limit):
            further = (value + limit) / 2
            if abs(limit - further) <= 0.01 * (self.high - self.low):
                return limit
        else:
            further = value + (self.high - self.low) / 4 * (1 if upwards else -1)
        return min(further, limit) if upwards else max(further, limit)

    def between(self, left: float, right: float) -> float:
        """The middle of two values in the range's scale: the geometric mean with `log`."""
        return math.sqrt(left) * math.sqrt(right) if self.log else (left + right) / 2

    def gap(self, left: float, right: float) -> float:
        """How far apart two values are, in widths of the range."""
        if self.log:
            return abs(math.log(right / left)) / math.log(self.high / self.low)
        return abs(right - left) / (self.high - self.low)


@dataclass(frozen=True)
class Choices:
    """These values only, in their natural order if they have one.

    Raises ValueError where there are none, or a value appears twice.
    """

    values: tuple[bool | int | float | str, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"{self}: there should be at least one value, each only once")

    def at(self, u: float) -> bool | int | float | str:
        """The value at the fraction u in [0, 1) of the list: every value has an equal share."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def grid(self, n: int) -> list[bool | int | float | str]:
        """n of the values, evenly spaced; all where there are fewer."""
        return evenly(self.values, n)


Space = Mapping[str, Range | Choices]


def evenly(items: Sequence[_T], n: int) -> list[_T]:
    """n of the items, evenly spaced from the first to the last; for n = 1 the middle one; all where there are fewer.

    Equation: item number `⌊i·(N−1)/(n−1)⌋` for i = 0 … n−1
    """
    last = len(items) - 1
    if n > last:
        return list(items)
    return [items[last // 2]] if n == 1 else [items[i * last // (n - 1)] for i in range(n)]
