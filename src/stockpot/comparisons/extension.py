"""A search whose best value is the outermost tried is extended: beyond that end, and as much for every other method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stockpot.methods.declare.space import Range, Space
from stockpot.results import Trial

Keys = Mapping[str, Any]
SHARE = 3  # a round of extension has a third of the search's first trials
SAME = 1e-6  # of a range's width: closer values count as the same


def round_size(trials: int) -> int:
    """Further trials for each method in a round: a third of the first ones, rounded up."""
    return math.ceil(trials / SHARE)


def best_keys(tried: Sequence[Trial], space: Space, sign: int) -> dict[str, Any] | None:
    """The keys of the best trial, the highest `sign` · score; None if every trial diverged.

    Of equal scores, the first that is at no end: where the score is flat, nothing beyond it is better.
    """
    scores = [sign * trial.score for trial in tried if trial.score is not None]
    equal = [trial.keys for trial in tried if trial.score is not None and sign * trial.score == max(scores)]
    if not equal:
        return None
    every = [trial.keys for trial in tried]
    return next((keys for keys in equal if not any(keys_at_ends(keys, every, space))), equal[0])


def keys_at_ends(chosen: Keys, tried: Sequence[Keys], space: Space) -> tuple[dict[str, bool], dict[str, bool]]:
    """Keys whose chosen value is the outermost tried, with True for the highest and False for the lowest.

    First those that can be extended, then those at a mathematical limit. A key with a single value was not searched.
    """
    going: dict[str, bool] = {}
    limited: dict[str, bool] = {}
    for key, interval in space.items():
        values = {keys[key] for keys in tried}
        if not isinstance(interval, Range) or len(values) < 2 or chosen[key] not in (min(values), max(values)):
            continue
        upwards = chosen[key] == max(values)
        (limited if interval.beyond(chosen[key], upwards) is None else going)[key] = upwards
    return going, limited


def further_points(
    space: Space, strength: str | None, chosen: Keys, tried: Sequence[Keys], many: int
) -> list[dict[str, Any]]:
    """Up to `many` more points, each equal to the chosen one except in one key; fewer if nothing is left to try.

    Keys at an end take turns, the strength first, each time a step further out. If none is at an end, keys take
    turns in halving the wider of the two gaps beside their chosen value.
    """
    going, _ = keys_at_ends(chosen, tried, space)
    known, points = list(tried), []
    keys = sorted(
        (key for key, interval in space.items() if isinstance(interval, Range)), key=lambda key: key != strength
    )
    outwards = [key for key in keys if key in going]
    for number in range(many):
        value = _first(outwards, number, lambda key: _outwards(space[key], key, going[key], known))
        value = value or _first(keys, number, lambda key: _inwards(space[key], key, chosen, known))
        if value is None:
            break
        points.append({**chosen, **value})
        known.append(points[-1])
    return points


def _first(keys: Sequence[str], turn: int, propose: Any) -> dict[str, float] | None:
    """The first proposal, the keys in order, each turn starting with the next one."""
    for place in range(len(keys)):
        key = keys[(turn + place) % len(keys)]
        if (value := propose(key)) is not None:
            return {key: value}
    return None


def _outwards(interval: Any, key: str, upwards: bool, known: Sequence[Keys]) -> float | None:
    value: float | None = interval.beyond((max if upwards else min)(keys[key] for keys in known), upwards)
    return value


def _inwards(interval: Any, key: str, chosen: Keys, known: Sequence[Keys]) -> float | None:
    """The middle of the wider gap between the chosen value and its neighbours."""
    middle = chosen[key]
    values = {interval.low, interval.high, *(keys[key] for keys in known)}
    beside = [
        max((v for v in values if v < middle), default=middle),
        min((v for v in values if v > middle), default=middle),
    ]
    other = max(beside, key=lambda value: interval.gap(middle, value))
    value: float = interval.between(middle, other)
    return value if interval.gap(middle, other) > SAME else None
