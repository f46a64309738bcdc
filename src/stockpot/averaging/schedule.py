"""When to average: a pure function of the optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from numbers import Integral
from typing import TypeGuard

from stockpot.errors import StockpotError


def average_steps(total_steps: int, p: float) -> list[int]:
    """The optimizer steps after which SFA averages: every p·T steps, and the last one.

    `sorted({max(1, ⌊j·p·T + ½⌋) ≤ T : j = 1, 2, …} ∪ {T})`, T = `total_steps`. p is read as the fraction that was
    meant (0.1 is 1/10), so the steps do not drift. The time taken is proportional to the number of averages.

    Args:
        total_steps: T, the optimizer steps of the task, at least 1.
        p: the fraction of T between two averages, in (0, 1]; p = 1 averages only at the end.

    Returns:
        The steps, counted from 1, in ascending order.

    Raises:
        StockpotError: unless 0 < p ≤ 1 and T ≥ 1.
    """
    if not is_number(p) or not 0 < p <= 1:
        raise StockpotError(f"p must lie in (0, 1], the fraction of the steps between two averages, not {p!r}.")
    total_steps = _positive("total_steps", total_steps)
    interval = Fraction(p).limit_denominator(10**12) * total_steps
    if interval <= 1:
        return list(range(1, total_steps + 1))
    top, bottom = interval.numerator, interval.denominator
    steps = [(2 * j * top + bottom) // (2 * bottom) for j in range(1, total_steps * bottom // top + 2)]
    return [step for step in steps if step < total_steps] + [total_steps]


@dataclass(frozen=True)
class Schedule:
    """Every `p`·`total_steps` steps, or every `every` steps; after the last one too, where `total_steps` is known.

    Raises StockpotError unless exactly one of `p` and `every` is given, and `total_steps` with `p`.
    """

    p: float | None = None
    total_steps: int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        if (self.p is None) == (self.every is None):
            raise StockpotError("give either p (with total_steps) or every: they say when to average.")
        if self.every is not None:
            _positive("every", self.every)
        if self.total_steps is not None:
            _positive("total_steps", self.total_steps)
        elif self.p is not None:
            raise StockpotError("p needs total_steps, the optimizer steps of the task; if unknown, give every=….")
        _ = self._steps  # refuses a wrong p now, not at the first step

    @cached_property
    def _steps(self) -> frozenset[int]:
        return frozenset(
            average_steps(self.total_steps, self.p) if self.p is not None and self.total_steps is not None else ()
        )

    def due(self, step: int) -> bool:
        """Whether to average after optimizer step `step` (from 1)."""
        if self.every is not None:
            return step % self.every == 0 or step == self.total_steps
        return step in self._steps


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise StockpotError(f"{name} must be a whole number of steps, at least 1, not {value!r}.")
    return int(value)
