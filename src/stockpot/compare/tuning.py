"""Parameters chosen before the reported runs: as many trials for every method, on data and seeds of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stockpot import files
from stockpot.compare.cells import CellPlan
from stockpot.compare.running import Done, Running
from stockpot.compare.search import Search, open_search, with_keys
from stockpot.errors import StockpotError
from stockpot.methods.base import BaseConfig
from stockpot.recipe.schema import Tune
from stockpot.results import Trial, Tuning

FOLDER = Path("tuning")


def tune(running: Running, asked: Tune, methods: Sequence[BaseConfig]) -> tuple[list[BaseConfig], Tuning]:
    """The methods with the parameters that scored best, and all that was tried.

    The score is the average accuracy on the tuning split, in the order of the tasks as written, averaged over the
    tuning seeds; of equal ones the first counts. Raises StockpotError where every trial of a method diverged.
    """
    if asked.search == "optuna" and running.shard != (1, 1):
        raise StockpotError("--search optuna learns from one trial after the other: it cannot be sharded; use random.")
    searches = {
        method.title: open_search(
            asked.search, method, asked.trials, asked.seeds[0], running.path / FOLDER / method.title
        )
        for method in methods
    }
    by_label = {method.title: method for method in methods}
    sign = 1 if running.recipe.primary_score.higher_is_better else -1
    trials: dict[str, list[Trial]] = {label: [] for label in searches}
    for numbers in _rounds(running, asked):
        cells = [
            cell
            for number in numbers
            for label, search in searches.items()
            if number < search.trials
            for cell in _cells(by_label[label], search, number, asked.seeds)
        ]
        _take_in(running.run(cells), searches, trials, numbers, len(asked.seeds), sign)
    chosen = {}
    for label, tried in trials.items():
        scored = [(trial.score, trial.keys) for trial in tried if trial.score is not None]
        if tried and not scored:
            raise StockpotError(f"tuning {label!r}: training diverged in all {len(tried)} trials; lower its rates.")
        if scored:
            chosen[label] = max(scored, key=lambda one: sign * one[0])[1]
    tuning = Tuning(
        search=asked.search,
        trials=max((len(tried) for tried in trials.values()), default=0),
        seeds=asked.seeds,
        split="a fifth of each class's training examples, held out; the tasks in the order written",
        methods=trials,
        chosen=chosen,
    )
    return [with_keys(method, chosen.get(method.title, {})) for method in methods], tuning


def _cells(method: BaseConfig, search: Search, number: int, seeds: Sequence[int]) -> list[CellPlan]:
    keys = search.ask(number)
    tried = with_keys(method, keys)
    folder = FOLDER / method.title / f"trial-{number:03d}"
    told = " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in keys.items()
    )
    return [CellPlan(tried, seed, folder / f"seed-{seed}", tuning=True, keys=told) for seed in seeds]


def _take_in(
    done: Sequence[Done],
    searches: Mapping[str, Search],
    trials: Mapping[str, list[Trial]],
    numbers: Sequence[int],
    seeds: int,
    sign: int,
) -> None:
    """Groups the cells by trial, as they were made: by number, method and seed; to a search more is better."""
    place = 0
    for number in numbers:
        for label, search in searches.items():
            if number >= search.trials:
                continue
            own = done[place : place + seeds]
            place += seeds
            scores = [None if results is None else results.metrics.average_accuracy for _, results in own]
            measured = [score for score in scores if score is not None]
            score = sum(measured) / seeds if len(measured) == seeds else None
            search.tell(number, None if score is None else sign * score)
            trials[label].append(Trial(keys=search.ask(number), score=score, run=own[0][0].path.parent.as_posix()))


def _rounds(running: Running, asked: Tune) -> Iterator[list[int]]:
    """Which trials run together: all, where none waits for another's score and none for the time.

    With a time, rounds of one trial a method until it is over; how many they were is kept, so that going on adds none.
    """
    if asked.minutes is None:
        numbers = [*range(asked.trials)]
        yield from ([number] for number in numbers) if asked.search == "optuna" else [numbers]
        return
    if running.shard != (1, 1):
        raise StockpotError("--budget ends the tuning at a time, which the shards of a comparison do not share.")
    file, begun = running.path / FOLDER / "rounds.json", time.monotonic()
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    done = 0
    while done < (asked.trials if known is None else known):
        if known is None and done and time.monotonic() - begun > 60 * asked.minutes:
            break
        yield [done]
        done += 1
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(file, json.dumps(done))
