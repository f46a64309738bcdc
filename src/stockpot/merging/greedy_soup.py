"""The greedy soup: models are averaged one after the other for as long as a score on held-out data does not fall."""

from __future__ import annotations

import math
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import StockpotError

# The score, higher is better, of the uniform average of these models (their numbers).
SubsetScore = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class GreedySoup:
    """What was chosen: the models in the order in which they came in, the score, and all that was tried."""

    members: tuple[int, ...]
    score: float
    tried: tuple[tuple[tuple[int, ...], float], ...]


def greedy_soup(count: int, score: SubsetScore) -> GreedySoup:
    """Greedy soup ("Model soups", arXiv 2203.05482, recipe 1): best model first, each next one kept if the score of the
    average does not fall (≥, as in the paper; the released code asks for more).

    Its score is at least that of the best single model. Raises StockpotError for a score that is no number.
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
    """Runs a command with `{model}` replaced by the model's path; the score is the last word that it prints."""
    words = [word.replace("{model}", str(model)) for word in shlex.split(command)]
    if "{model}" not in command:
        raise StockpotError("the scoring command should have {model} where the model's folder belongs.")
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise StockpotError(f"the scoring command {words[0]!r} does not start: {error.strerror}.") from error
    said = done.stdout.split()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StockpotError(f"the scoring command failed for {model} with exit code {done.returncode}: {last}")
    try:
        return float(said[-1])
    except (IndexError, ValueError) as error:
        heard = repr(said[-1]) if said else "nothing"
        raise StockpotError(
            f"the scoring command should print a score last; for {model} it printed {heard}."
        ) from error
