"""What the values of a parameter may be: the sets that a search draws from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, even in themselves or, with `log`, in their logarithms.

    `limits` are the mathematical ends, beyond which the parameter means nothing: a search may leave the range, but not
    them. Raises ValueError where the range is empty, infinite or beyond its limits, or with `log` not positive.
    """

    low: float
    high: float
    log: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not (self.low < self.high and math.isfinite(self.high - self.low)) or (self.log and self.low <= 0):
            raise ValueError(f"{self}: low should lie below high, both finite, and above 0 with log")
        if not self.limits[0] <= self.low < self.high <= self.limits[1]:
            raise ValueError(f"{self}: it goes beyond its limits")

    def at(self, u: float) -> float:
        """The value so far into the range, u in [0, 1).

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

    def between(self, one: float, other: float) -> float:
        """The middle of two values in the range's scale: the geometric mean with `log`."""
        return math.sqrt(one) * math.sqrt(other) if self.log else (one + other) / 2

    def gap(self, one: float, other: float) -> float:
        """How far apart two values are, in widths of the range."""
        if self.log:
            return abs(math.log(other / one)) / math.log(self.high / self.low)
        return abs(other - one) / (self.high - self.low)


@dataclass(frozen=True)
class Choices:
    """These values and no others, in an order that means something if they have one.

    Raises ValueError where there are none, or one of them twice.
    """

    values: tuple[bool | int | float | str, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"{self}: there should be values, each of them once")

    def at(self, u: float) -> bool | int | float | str:
        """The value so far down the list, u in [0, 1): every one for an equal part of it."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def grid(self, n: int) -> list[bool | int | float | str]:
        """n of the values, evenly apart; all where there are no more."""
        return evenly(self.values, n)


Space = Mapping[str, Range | Choices]


def evenly(items: Sequence[_T], n: int) -> list[_T]:
    """n of the items, evenly apart from the first to the last; a single one is the middle; all where there are fewer.

    Equation: item number `⌊i·(N−1)/(n−1)⌋` for i = 0 … n−1
    """
    last = len(items) - 1
    if n > last:
        return list(items)
    return [items[last // 2]] if n == 1 else [items[i * last // (n - 1)] for i in range(n)]
