"""The greedy soup: adds models to an average as long as a score on held-out data does not fall."""

from __future__ import annotations

import math
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import StockpotError

# The score of the uniform average of these models, given by their numbers; higher is better.
SubsetScore = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class GreedySoup:
    """The chosen models in the order in which they were added, their score, and every subset that was tried."""

    members: tuple[int, ...]
    score: float
    tried: tuple[tuple[tuple[int, ...], float], ...]


def greedy_soup(count: int, score: SubsetScore) -> GreedySoup:
    """Greedy soup: starts with the best model and adds each next one if the average's score does not fall.

    "Model soups", arXiv 2203.05482, recipe 1. As in the paper an equal score is enough; the released code requires a
    higher one. The score is at least that of the best single model. Raises StockpotError if a score is NaN.
    """
    tried: list[tuple[tuple[int, ...], float]] = []

    def scored(members: tuple[int, ...]) -> float:
        value = float(score(members))
        if math.isnan(value):
            raise StockpotError(f"the score of model{'s' * (len(members) > 1)} {members} is not a number.")
        tried.append((members, value))
        return value

    alone = [scored((number,)) for number in range(count)]
    order = sorted(range(count), key=lambda number: -alone[number])
    members: tuple[int, ...] = (order[0],)
    best = alone[order[0]]
    for number in order[1:]:
        value = scored((*members, number))
        if value >= best:
            members, best = (*members, number), value
    return GreedySoup(members, best, tuple(tried))


def run_score(command: str, model: Path) -> float:
    """Runs a command, with `{model}` replaced by the model's path; the score is the last word that it prints."""
    words = [word.replace("{model}", str(model)) for word in shlex.split(command)]
    if "{model}" not in command:
        raise StockpotError("the scoring command must contain {model}, which becomes the model's folder.")
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise StockpotError(f"the scoring command {words[0]!r} cannot be run: {error.strerror}.") from error
    printed = done.stdout.split()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise StockpotError(f"the scoring command failed for {model} with exit code {done.returncode}: {last}")
    try:
        return float(printed[-1])
    except (IndexError, ValueError) as error:
        shown = repr(printed[-1]) if printed else "nothing"
        raise StockpotError(f"the scoring command must print a score last; for {model} it printed {shown}.") from error
