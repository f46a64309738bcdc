"""What the values of a parameter may be: the sets that a search draws from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, even in themselves or, with `log`, in their logarithms.

    Raises ValueError where it is empty or infinite, or with `log` not positive.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (self.low < self.high and math.isfinite(self.high - self.low)) or (self.log and self.low <= 0):
            raise ValueError(f"{self}: low should lie below high, both finite, and above 0 with log")

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
        return spread(self.values, n)


Space = Mapping[str, Range | Choices]


def spread(items: Sequence[T], n: int) -> list[T]:
    """n of the items, evenly apart from the first to the last; a single one is the middle; all where there are fewer.

    Equation: item number `⌊i·(N−1)/(n−1)⌋` for i = 0 … n−1
    """
    last = len(items) - 1
    if n > last:
        return list(items)
    return [items[last // 2]] if n == 1 else [items[i * last // (n - 1)] for i in range(n)]
