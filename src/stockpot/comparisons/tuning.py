"""Parameters chosen before the reported runs: the same number of trials for every method, on other data and seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stockpot import files
from stockpot.comparisons.cells import CellPlan
from stockpot.comparisons.extension import best_keys, further_points, keys_at_ends, round_size
from stockpot.comparisons.running import CellRunner
from stockpot.comparisons.search import Search, open_search, with_keys
from stockpot.errors import StockpotError
from stockpot.methods.base import BaseConfig
from stockpot.methods.declare.space import Range, Space
from stockpot.recipe.ranges import with_ranges
from stockpot.recipe.schema import Tune
from stockpot.results import Trial, Tuning
from stockpot.spelling import option

TUNING_FOLDER = Path("tuning")
Point = tuple[str, int, dict[str, Any]]  # label, number of the trial, the keys that it sets


def tune(running: CellRunner, settings: Tune, methods: Sequence[BaseConfig]) -> tuple[list[BaseConfig], Tuning]:
    """The methods with the parameters that scored best, and all trials.

    The score is the average accuracy on the tuning split, with the tasks in the order written, averaged over the tuning
    seeds. Of equal scores, the first that is at no end of the values tried is chosen. If a choice is at an end, all
    methods get further trials, see `extension`. Raises StockpotError if every trial of a method diverged.
    """
    if settings.search == "optuna" and running.shard != (1, 1):
        raise StockpotError(
            f"{option('search')} optuna learns from one trial after the other, so it cannot be sharded; use random."
        )
    tuned = {method.title: _Tuned.of(method, settings, running.path) for method in methods}
    sign = 1 if running.recipe.primary_score.higher_is_better else -1
    time_limit = _TimeLimit(running, settings)
    for numbers in _rounds(settings, time_limit):
        points = [
            (label, number, method.search.ask(number))
            for number in numbers
            for label, method in tuned.items()
            if number < method.search.trials
        ]
        for (label, number, _), trial in zip(points, _scored(running, tuned, points, settings.seeds), strict=True):
            tuned[label].search.tell(number, None if trial.score is None else sign * trial.score)
            tuned[label].trials.append(trial)
    first = max((len(method.trials) for method in tuned.values()), default=0)
    rounds = _extend(running, settings, tuned, sign, time_limit)
    most = max((len(method.trials) for method in tuned.values()), default=0)
    chosen = {label: keys for label, method in tuned.items() if (keys := method.best(sign)) is not None}
    ends = {label: _ends(tuned[label], keys) for label, keys in chosen.items()}
    tuning = Tuning(
        search=settings.search,
        trials=first,
        extensions=rounds,
        further_trials=most - first,
        seeds=settings.seeds,
        split="a fifth of each class's training examples, held out; the tasks in the order written",
        methods={label: method.trials for label, method in tuned.items()},
        chosen=chosen,
        ranges={label: method.ranges for label, method in tuned.items() if method.ranges},
        at_end={label: going for label, (going, _) in ends.items() if going},
        at_limit={label: limited for label, (_, limited) in ends.items() if limited},
    )
    return [with_keys(method, chosen.get(method.title, {})) for method in methods], tuning


@dataclass
class _Tuned:
    """One method, its search, and its trials."""

    method: BaseConfig
    space: Space
    search: Search
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def of(cls, method: BaseConfig, settings: Tune, path: Path) -> _Tuned:
        space = with_ranges(method.searched(), method, settings.ranges)
        folder = path / TUNING_FOLDER / method.title
        return cls(
            method, space, open_search(settings.search, method, settings.trials, settings.seeds[0], folder, space)
        )

    @property
    def ranges(self) -> dict[str, list[float]]:
        return {
            key: [interval.low, interval.high] for key, interval in self.space.items() if isinstance(interval, Range)
        }

    def best(self, sign: int) -> dict[str, Any] | None:
        """The best keys; None if nothing was tuned. Raises StockpotError if every trial diverged."""
        keys = best_keys(self.trials, self.space, sign)
        if self.trials and keys is None:
            raise StockpotError(
                f"tuning {self.method.title!r}: training diverged in all {len(self.trials)} trials; lower its rates."
            )
        return keys


def _ends(tuned: _Tuned, chosen: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    going, limited = keys_at_ends(chosen, [trial.keys for trial in tuned.trials], tuned.space)
    return {key: float(chosen[key]) for key in going}, {key: float(chosen[key]) for key in limited}


def _extend(running: CellRunner, settings: Tune, tuned: Mapping[str, _Tuned], sign: int, time_limit: _TimeLimit) -> int:
    """Further rounds, equal for all methods, while one's best value is the outermost tried; returns their number.

    Shards share the runs of each round. Raises StockpotError as `_Tuned.best` does.
    """
    size = round_size(max((len(method.trials) for method in tuned.values()), default=0))
    done = 0
    while done < settings.extensions:
        chosen = {label: keys for label, method in tuned.items() if (keys := method.best(sign)) is not None}
        at_end = any(_ends(tuned[label], keys)[0] for label, keys in chosen.items())
        if not at_end or not time_limit.has("extensions", done):
            break
        points = [
            (label, settings.trials + done * size + number, keys)
            for label, best in chosen.items()
            for number, keys in enumerate(_more(tuned[label], best, size))
        ]
        for (label, _, _), trial in zip(points, _scored(running, tuned, points, settings.seeds), strict=True):
            tuned[label].trials.append(trial)
        done += 1
    time_limit.keep("extensions", done)
    return done


def _more(tuned: _Tuned, best: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    return further_points(tuned.space, tuned.method.varied_key, best, [trial.keys for trial in tuned.trials], size)


def _scored(
    running: CellRunner, tuned: Mapping[str, _Tuned], points: Sequence[Point], seeds: Sequence[int]
) -> list[Trial]:
    """The points as trials: each runs with every seed; its score is their mean, or None if one diverged."""
    done = iter(running.run([cell for point in points for cell in _cells(tuned[point[0]].method, point, seeds)]))
    trials = []
    for _, _, keys in points:
        runs = [next(done) for _ in seeds]
        scores = [None if results is None else results.metrics.average_accuracy for _, results in runs]
        measured = [score for score in scores if score is not None]
        score = sum(measured) / len(seeds) if len(measured) == len(seeds) else None
        trials.append(Trial(keys=keys, score=score, run=runs[0][0].path.parent.as_posix()))
    return trials


def _cells(method: BaseConfig, point: Point, seeds: Sequence[int]) -> list[CellPlan]:
    _, number, keys = point
    tried = with_keys(method, keys)
    folder = TUNING_FOLDER / method.title / f"trial-{number:03d}"
    words = " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in keys.items()
    )
    return [CellPlan(tried, seed, folder / f"seed-{seed}", tuning=True, keys=words) for seed in seeds]


def _rounds(settings: Tune, time_limit: _TimeLimit) -> Iterator[list[int]]:
    """Which trials run together: all, unless they wait for each other's scores or for a time limit.

    With a time limit, rounds of one trial for each method until it is over.
    """
    if settings.minutes is None:
        numbers = [*range(settings.trials)]
        yield from ([number] for number in numbers) if settings.search == "optuna" else [numbers]
        return
    done = 0
    while done < settings.trials and time_limit.has("rounds", done):
        yield [done]
        done += 1
    time_limit.keep("rounds", done)


class _TimeLimit:
    """The time limit of the tuning, if there is one. The number of rounds is recorded: continuing adds none.

    Raises StockpotError for a shard: the shards of a comparison do not share a clock.
    """

    def __init__(self, running: CellRunner, settings: Tune) -> None:
        if settings.minutes is not None and running.shard != (1, 1):
            raise StockpotError(
                f"tune.minutes ({option('minutes')}) limits the time of the tuning, which the shards of a "
                "comparison do not share."
            )
        self._seconds = None if settings.minutes is None else 60 * settings.minutes
        self._file, self._started = running.path / TUNING_FOLDER / "rounds.json", time.monotonic()
        known = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        self._known: dict[str, int] = known if isinstance(known, dict) else {"rounds": known, "extensions": 0}

    def has(self, stage: Literal["rounds", "extensions"], done: int) -> bool:
        """Whether another round may start; the very first always may."""
        if self._seconds is None:
            return True
        if stage in self._known:
            return done < self._known[stage]
        return (stage == "rounds" and not done) or time.monotonic() - self._started <= self._seconds

    def keep(self, stage: Literal["rounds", "extensions"], done: int) -> None:
        """Records how many rounds there were."""
        if self._seconds is not None:
            self._known[stage] = done
            self._file.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self._file, json.dumps(self._known))
