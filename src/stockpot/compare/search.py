"""Which parameters to try: as many trials for every method, from a grid, at random, or by Optuna."""

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
    """The trials of one method. What was asked before is answered the same, in a new process, too."""

    @property
    def trials(self) -> int:
        """How many there are: fewer than were wanted where a grid has no more points, none where nothing is tuned."""

    def ask(self, number: int) -> dict[str, Any]:
        """The searched keys and their values in trial `number`, from 0."""

    def tell(self, number: int, score: float | None) -> None:
        """Says how good trial `number` was: higher is better, None means that it diverged. Only the first word counts.

        Raises ValueError where Optuna was not asked for it.
        """


def open_search(
    kind: SearchKind, config: BaseConfig, trials: int, seed: int, folder: Path, space: Space | None = None
) -> Search:
    """The search over what `config`, as the user wrote it, leaves open: `config.searched()`, or `space` in its place.

    Optuna's journal, which a search goes on from, is a file in `folder`; the other kinds write nothing. Raises
    StockpotError for an unknown kind, no trials, a missing Optuna, and a journal of another search.
    """
    if kind not in get_args(SearchKind):
        raise StockpotError(
            f"search {kind!r}: there is no such search: choose {', '.join(get_args(SearchKind))}."
            f"{did_you_mean(kind, get_args(SearchKind))}"
        )
    if trials < 1:
        raise StockpotError(f"{trials} trials: a search has at least one.")
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
        points = grid_points(space, trials, config.strength_key)
    for point in points:
        with_keys(config, point)
    return ListedSearch(points)


def with_keys(config: _C, keys: Mapping[str, Any]) -> _C:
    """The configuration with these keys, validated like one that a user wrote.

    Raises StockpotError where a value is refused, or a key beside those that are set.
    """
    return validate(type(config), {**config.model_dump(exclude_unset=True), **keys}, f"method {config.title!r}")


@dataclass(frozen=True)
class ListedSearch:
    """Trials that are all known beforehand."""

    points: Sequence[dict[str, Any]]

    @property
    def trials(self) -> int:
        """How many there are."""
        return len(self.points)

    def ask(self, number: int) -> dict[str, Any]:
        """The values of one trial."""
        return dict(self.points[_checked(number, self.trials)])

    def tell(self, number: int, score: float | None) -> None:
        """Changes nothing."""
        _checked(number, self.trials)


def grid_points(space: Space, trials: int, strength: str | None) -> list[dict[str, Any]]:
    """Exactly so many points of a grid, however many keys there are; fewer only where the space has no more.

    The keys get another value in turn, the strength first, until their product reaches the number of trials: 12 trials
    are 12, 4×3 or 3×2×2 points. If it is exceeded, points are left out evenly: 10 trials are 10 of 4×3. Their order is
    such that the first trials, if time ends a search early, are spread over the grid, too.
    """
    keys = sorted(space, key=lambda key: key != strength)
    most = {key: len(one.values) if isinstance(one, Choices) else trials for key, one in space.items()}
    counts = dict.fromkeys(keys, 1)
    for key in itertools.cycle(keys):
        if math.prod(counts.values()) >= trials or counts == most:
            break
        counts[key] = min(counts[key] + 1, most[key])
    values = [space[key].grid(counts[key]) for key in keys]
    points = evenly([dict(zip(keys, point, strict=True)) for point in itertools.product(*values)], trials)
    return [points[i] for i in sorted(range(len(points)), key=_mirrored)]


def _mirrored(number: int) -> str:
    """Its bits from the last to the first: sorted by them, numbers jump about instead of rising (van der Corput)."""
    return f"{number:032b}"[::-1]


def random_point(space: Space, label: str, number: int, seed: int) -> dict[str, Any]:
    """A random trial: each value depends on the seed, the method's label, the number and the key, on nothing else."""
    return {key: one.at(derive(seed, "search", label, number, key) / 2**31) for key, one in space.items()}


class OptunaSearch:
    """Trials that Optuna chooses one after the other by TPE, from what it was told of those before.

    A third of the trials, ten at most, is random. Each trial is drawn by a sampler of its own, seeded with its number:
    it depends on the journal alone, so that an interrupted search goes on as if it had never stopped.

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
        """The values of a trial. Raises StockpotError where those before it were not asked for yet."""
        import optuna

        past = self._study.trials
        if _checked(number, self.trials) < len(past):
            return dict(past[number].params)
        if number > len(past):
            raise StockpotError(
                f"{self._path}: trial {number} was asked for before trial {len(past)}: Optuna learns from one after "
                "the other. Search by grid or random to run trials in any order."
            )
        sampler = optuna.samplers.TPESampler(
            seed=derive(self._seed, "search", self._config.title, number),
            n_startup_trials=min(10, max(1, self.trials // 3)),
        )
        # In memory, since a trial in the journal gets its values key by key: a kill would leave a part of them there.
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
        """Writes the score down, once. A trial that diverged counts as worse than all that did not."""
        import optuna

        if _checked(number, self.trials) >= len(self._study.trials):
            raise ValueError(f"{self._path}: trial {number} was not asked for")
        if score is None or not math.isfinite(score):
            # Not FAIL: TPE forgets what failed, and would go there again.
            self._study.tell(number, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)
        else:
            self._study.tell(number, score, skip_if_finished=True)


def _checked(number: int, trials: int) -> int:
    if not 0 <= number < trials:
        raise ValueError(f"there is no trial {number}: they are numbered from 0, and there are {trials}")
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
    """The study in a journal, new or begun. Raises StockpotError where it is another search's, or damaged."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _drop_torn_line(path)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
        study = optuna.create_study(storage=storage, study_name=config.title, direction="maximize", load_if_exists=True)
    except (ValueError, KeyError) as error:
        raise StockpotError(f"{path}: the journal is damaged; delete it to search anew.") from error
    searched = {
        "seed": seed,
        "method": config.model_dump(mode="json", exclude_unset=True),
        "space": {key: repr(one) for key, one in space.items()},
    }
    begun = study.user_attrs.get("searched")
    if begun is None:
        study.set_user_attr("searched", searched)
    elif begun != searched:
        raise StockpotError(
            f"{path}: this search was begun with another seed, method or search space; "
            "choose another folder, or delete the journal."
        )
    return study


def _drop_torn_line(path: Path) -> None:
    """Takes away what a kill left of a last line: Optuna would write the next one behind it, and read neither."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        key: CategoricalDistribution(one.values)
        if isinstance(one, Choices)
        else FloatDistribution(one.low, one.high, log=one.log)
        for key, one in space.items()
    }
