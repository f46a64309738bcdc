"""Which parameters to try: the same number of trials for every method, from a grid, at random, or by Optuna."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

from stockpot.errors import StockpotError, did_you_mean
from stockpot.methods.base import BaseConfig
from stockpot.methods.declare.space import Choices, Space, evenly
from stockpot.recipe.read import validate
from stockpot.seeds import derive

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

SearchKind = Literal["grid", "random", "optuna"]
_C = TypeVar("_C", bound=BaseConfig)


class Search(Protocol):
    """The trials of one method. Asking again gives the same answer, also in a new process."""

    @property
    def trials(self) -> int:
        """Their number: fewer than asked for if a grid has no more points, 0 if nothing is tuned."""

    def ask(self, number: int) -> dict[str, Any]:
        """The keys that are searched, with their values in trial `number`, from 0."""

    def tell(self, number: int, score: float | None) -> None:
        """Records the score of trial `number`: higher is better, None if it diverged. Only the first call counts.

        Raises ValueError if Optuna was not asked for this trial.
        """


def open_search(
    kind: SearchKind, config: BaseConfig, trials: int, seed: int, folder: Path, space: Space | None = None
) -> Search:
    """The search over the parameters that the user left open in `config`: `config.searched()`, or `space` instead.

    Optuna continues from its journal, a file in `folder`; the other kinds write nothing. Raises StockpotError for an
    unknown kind, no trials, a missing Optuna, and a journal of another search.
    """
    if kind not in get_args(SearchKind):
        raise StockpotError(
            f"search {kind!r}: unknown; choose {', '.join(get_args(SearchKind))}."
            f"{did_you_mean(kind, get_args(SearchKind))}"
        )
    if trials < 1:
        raise StockpotError(f"{trials} trials: a search needs at least one.")
    if kind == "optuna":
        _need_optuna()
    space = config.searched() if space is None else space
    if not space:
        return ListedSearch([])
    if kind == "optuna":
        return OptunaSearch(config, trials, seed, folder, space)
    if kind == "random":
        points = [random_point(space, config.title, number, seed) for number in range(trials)]
    else:
        points = grid_points(space, trials, config.varied_key)
    for point in points:
        with_keys(config, point)
    return ListedSearch(points)


def with_keys(config: _C, keys: Mapping[str, Any]) -> _C:
    """The configuration with these keys, validated like a user's.

    Raises StockpotError if a value is refused, or does not go with the keys that are set.
    """
    return validate(type(config), {**config.model_dump(exclude_unset=True), **keys}, f"method {config.title!r}")


@dataclass(frozen=True)
class ListedSearch:
    """Trials that are all known in advance."""

    points: Sequence[dict[str, Any]]

    @property
    def trials(self) -> int:
        """Their number."""
        return len(self.points)

    def ask(self, number: int) -> dict[str, Any]:
        """The values of one trial."""
        return dict(self.points[_checked(number, self.trials)])

    def tell(self, number: int, score: float | None) -> None:
        """Only checks the number."""
        _checked(number, self.trials)


def grid_points(space: Space, trials: int, strength: str | None) -> list[dict[str, Any]]:
    """Exactly `trials` points of a grid, however many keys there are; fewer only if the space has no more.

    The keys take turns in getting another value, the strength first, until their product reaches the number of trials:
    12 trials are 12, 4×3 or 3×2×2 points. If it is exceeded, points are left out evenly: 10 trials are 10 of 4×3. The
    first trials are spread over the grid as well, in case a time limit ends the search early.
    """
    keys = sorted(space, key=lambda key: key != strength)
    most = {key: len(choice.values) if isinstance(choice, Choices) else trials for key, choice in space.items()}
    counts = dict.fromkeys(keys, 1)
    for key in itertools.cycle(keys):
        if math.prod(counts.values()) >= trials or counts == most:
            break
        counts[key] = min(counts[key] + 1, most[key])
    values = [space[key].grid(counts[key]) for key in keys]
    points = evenly([dict(zip(keys, point, strict=True)) for point in itertools.product(*values)], trials)
    return [points[i] for i in sorted(range(len(points)), key=_mirrored)]


def _mirrored(number: int) -> str:
    """The bits in reverse: numbers sorted by them are spread out instead of rising (van der Corput)."""
    return f"{number:032b}"[::-1]


def random_point(space: Space, label: str, number: int, seed: int) -> dict[str, Any]:
    """A random trial: each value depends only on the seed, the method's label, the number and the key."""
    return {key: choice.at(derive(seed, "search", label, number, key) / 2**31) for key, choice in space.items()}


class OptunaSearch:
    """Trials that Optuna chooses one after the other by TPE, from the scores of those before.

    A third of the trials, at most ten, is random. Each trial is drawn by its own sampler, seeded with its number, so it
    depends on the journal alone: an interrupted search continues as if it had never stopped.

    Paper: "Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), §4
    """

    def __init__(self, config: BaseConfig, trials: int, seed: int, folder: Path, space: Space) -> None:
        self.trials = trials
        self._config = config
        self._space = space
        self._seed = seed
        self._path = folder / f"{config.title}.optuna.jsonl"
        self._study = _open_study(self._path, config, seed, space)

    def ask(self, number: int) -> dict[str, Any]:
        """The values of a trial. Raises StockpotError if those before it were not asked for yet."""
        import optuna

        past = self._study.trials
        if _checked(number, self.trials) < len(past):
            return dict(past[number].params)
        if number > len(past):
            raise StockpotError(
                f"{self._path}: trial {number} was asked for before trial {len(past)}: Optuna learns from one trial "
                "after the other. Search by grid or random to run trials in any order."
            )
        sampler = optuna.samplers.TPESampler(
            seed=derive(self._seed, "search", self._config.title, number),
            n_startup_trials=min(10, max(1, self.trials // 3)),
        )
        # In memory: the journal would get the values key by key, and a kill would leave only some of them.
        memory = optuna.create_study(direction="maximize", sampler=sampler)
        memory.add_trials(past)
        chosen = memory.ask(_distributions(self._space))
        with_keys(self._config, chosen.params)
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING, params=chosen.params, distributions=chosen.distributions
            )
        )
        return dict(chosen.params)

    def tell(self, number: int, score: float | None) -> None:
        """Records the score, once. A trial that diverged counts as worse than all that did not."""
        import optuna

        if _checked(number, self.trials) >= len(self._study.trials):
            raise ValueError(f"{self._path}: trial {number} was not asked for")
        if score is None or not math.isfinite(score):
            # Not FAIL: TPE ignores failed trials, and would try the same region again.
            self._study.tell(number, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)
        else:
            self._study.tell(number, score, skip_if_finished=True)


def _checked(number: int, trials: int) -> int:
    if not 0 <= number < trials:
        raise ValueError(f"no trial {number}: there are {trials}, numbered from 0")
    return number


def _need_optuna() -> None:
    try:
        import optuna
    except ImportError as error:
        raise StockpotError(
            'search optuna: Optuna is not installed: pip install "stockpot[tune]", or search by grid or random.'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _open_study(path: Path, config: BaseConfig, seed: int, space: Space) -> Study:
    """The study in a journal, new or started. Raises StockpotError if it belongs to another search, or is damaged."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _drop_torn_line(path)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
        study = optuna.create_study(storage=storage, study_name=config.title, direction="maximize", load_if_exists=True)
    except (ValueError, KeyError) as error:
        raise StockpotError(f"{path}: the journal is damaged; delete it to start the search again.") from error
    searched = {
        "seed": seed,
        "method": config.model_dump(mode="json", exclude_unset=True),
        "space": {key: repr(choice) for key, choice in space.items()},
    }
    recorded = study.user_attrs.get("searched")
    if recorded is None:
        study.set_user_attr("searched", searched)
    elif recorded != searched:
        raise StockpotError(
            f"{path}: this search was started with another seed, method or search space; "
            "choose another folder, or delete the journal."
        )
    return study


def _drop_torn_line(path: Path) -> None:
    """Removes an incomplete last line, left by a kill: Optuna would append to it, and then read neither line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        key: CategoricalDistribution(choice.values)
        if isinstance(choice, Choices)
        else FloatDistribution(choice.low, choice.high, log=choice.log)
        for key, choice in space.items()
    }
