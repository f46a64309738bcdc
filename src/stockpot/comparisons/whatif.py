"""What other methods would have made of a finished sequential run: checkpoints are merged and evaluated.

The methods are those of `stockpot.methods`, called as in a run, with the run's models in place of training. So no
method is written twice, and what is called exact is so bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from stockpot import files
from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.metrics import stream_metrics
from stockpot.evaluation.pareto import best_index, knee
from stockpot.methods import build, config_of, find_method, in_role, known_names, registry
from stockpot.methods.base import BaseConfig, Method, Task
from stockpot.methods.declare.declarations import Sweep
from stockpot.plugins import is_dotted_path
from stockpot.results import Costs, Results, Scores, WhatIf, WhatIfMethod, WhatIfPoint
from stockpot.runs.evaluating import evaluate_model
from stockpot.runs.folder import RunFolder
from stockpot.runs.results_json import results_of
from stockpot.runs.session import Session
from stockpot.runs.versions import commit, versions
from stockpot.seeds import derive
from stockpot.spelling import option

FILE = "whatif.json"
DECIMALS = 4  # of a strength, so that the values shown are those tried

OPTIMISTIC = (
    "The best values and the knees were chosen on the test data that they are scored on, so these scores are "
    "optimistic: choose on other data, or on another run, before you claim them."
)
ONE_SEED = "This is one run with one seed: without a spread it does not show which method is better."
RAW = (
    "The merges of all tasks so far are exact: a run of the method with mode: chain, continue_from: raw, this value "
    "and this seed gives these scores."
)
AVERAGED = "{method} is exact up to the {last} task: a run with this {key} and this seed gives these scores."
POST_HOC = (
    "{method} from the {next} task on is post-hoc: a real run would have continued from the average, so later tasks "
    "would have started from other weights. Only {key} = {plain:g}, which is plain fine-tuning, is exact throughout."
)
FIRST = (
    "The first task is merged with the start model as well, since that comes from a checkpoint (first_task: average); "
    "set the same key in a run of one of these methods."
)
ORDINALS = ("first", "second", "third")


OnEvaluated = Callable[[str], None]  # called with a method's name after each evaluation


class _ReadOnly(RunFolder):
    """A run that nobody writes to while it is read: each of its models is verified only once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._verified: set[int] = set()

    def verify_model(self, index: int) -> None:
        if index not in self._verified:
            super().verify_model(index)
            self._verified.add(index)


def swept() -> dict[str, type[Method[Any]]]:
    """The methods that act on finished checkpoints, by name: those that declare a `sweep`."""
    return {name: method for name, method in registry().items() if method.sweep is not None}


def _sweep_of(name: str) -> tuple[str | None, Sweep]:
    """The key of a method's strength, if it has one, and its sweep."""
    method = find_method(name)
    assert method.sweep is not None, name
    return method.config_type.strength_key, method.sweep


def known_methods(names: Sequence[str]) -> list[str]:
    """The methods by name, each once. Raises StockpotError for one that needs training."""
    for name in names:
        brought = name not in registry() and (is_dotted_path(name) or name in known_names())
        if (find_method(name, "methods").sweep is None) if brought else name not in swept():
            hint = did_you_mean(name, swept())
            raise StockpotError(f"{option('methods')}: {name!r} is unknown, or needs training.{hint} {_choice()}")
    if not names:
        raise StockpotError(f"{option('methods')}: name at least one method. {_choice()}")
    called = [_called(name) for name in dict.fromkeys(names)]
    if twice := [name for name in called if called.count(name) > 1]:
        raise StockpotError(f"{option('methods')}: two of them are called {twice[0]!r}.")
    return list(dict.fromkeys(names))


def _called(name: str) -> str:
    """What a method is called in the results: its own name where it is given by a dotted path."""
    return config_of(name).declared_name or name


def _choice() -> str:
    return f"Methods that need no training: {', '.join(swept())}."


def strengths(name: str, points: int) -> list[float | None]:
    """`points` values of a method's strength, evenly from 0 to its largest; `[None]` for a method without one."""
    key, sweep = _sweep_of(name)
    return [None] if key is None else [round(sweep.top * i / (points - 1), DECIMALS) for i in range(points)]


def evaluations(names: Sequence[str], points: int, session: Session) -> int:
    """How many merged models a sweep evaluates: for each point one per task, the first only if it is merged."""
    return sum(len(strengths(name, points)) for name in names) * (len(session.stream.tasks) - _plain_tasks(session))


def _plain_tasks(session: Session) -> int:
    """How many tasks are not merged: the first, if the start model has random weights."""
    return 0 if session.recipe.model.origin == "checkpoint" else 1


@contextmanager
def reading(path: Path, *, allow_code: bool = False) -> Iterator[Session]:
    """The session of a finished sequential run, locked for reading: others may read it meanwhile, but not write to it.

    Raises StockpotError if the run's checkpoints cannot show what other methods would have done.
    """
    run = _ReadOnly.open(path)
    files.refuse_links(path)
    run.journal.lock(shared=True)
    try:
        _check(run)
        yield Session.open(run, allow_code=allow_code)
    finally:
        run.journal.close()


def _check(run: RunFolder) -> None:
    recipe, path = run.recipe, run.path
    floor = in_role("floor")
    if recipe.method.name != floor:
        raise StockpotError(
            f"{path}: this is a run of {recipe.method.name!r}, whose averages, merges or penalties are in its "
            f"checkpoints; only a run of {floor!r} shows what other methods would have done."
        )
    if not run.is_finished:
        raise StockpotError(f"{path}: the run is not finished; continue it with `stockpot resume {path}` first.")
    if len(run.tasks) < 2:
        raise StockpotError(
            f"{path}: the run has one task, and so no earlier one to compare with the newest; learn another with "
            "`stockpot add`."
        )
    if recipe.keep != "all":
        raise StockpotError(
            f"{path}: the models of its earlier tasks are gone (keep: {recipe.keep}); run the recipe again with "
            "keep=all."
        )


def sweep(session: Session, names: Sequence[str], points: int, on_evaluated: OnEvaluated = lambda name: None) -> WhatIf:
    """Evaluates every method at every strength after every task."""
    plain = results_of(session.run)
    scores = plain.scores[plain.primary]
    methods = {_called(name): _method(session, plain, name, points, on_evaluated) for name in names}
    start = _start(session)
    if plain.metrics.average_accuracy is None or None in start:
        raise StockpotError(
            f"{session.run.path}: {plain.primary} of the run or of its start model is not a finite number on every "
            "task, so there is nothing to compare with; run the recipe again with another `primary`, such as loss."
        )
    return WhatIf(
        run=session.run.path.resolve().name,
        scenario=plain.scenario,
        tasks=plain.tasks,
        seed=plain.seed,
        primary=plain.primary,
        unit=scores.unit,
        plain=scores,
        plain_metrics=plain.metrics,
        start=start,
        methods=methods,
        notes=[
            *_notes(names, len(plain.tasks), _plain_tasks(session)),
            *_left_out(names, methods, points, plain.primary),
        ],
        versions=versions(),
        commit=commit(),
    )


def _notes(names: Sequence[str], tasks: int, plain: int) -> list[str]:
    notes = [OPTIMISTIC, ONE_SEED, *([FIRST] if plain == 0 else [])]
    if not all(_sweep_of(name)[1].continues for name in names):
        notes.append(RAW)
    for name in names:
        key, sweep = _sweep_of(name)
        if sweep.continues:
            facts = {"method": find_method(name).title, "key": key, "plain": _plain_strength(name)}
            notes.append(AVERAGED.format(last=ORDINALS[plain], **facts))
            if tasks > plain + 1:
                notes.append(POST_HOC.format(next=ORDINALS[plain + 1], **facts))
    return notes


def _plain_strength(name: str) -> float | None:
    """The strength at which a method is plain fine-tuning."""
    key, neutral = _sweep_of(name)[0], find_method(name).neutral
    return None if key is None or neutral is None else neutral.get(key)


def _left_out(names: Sequence[str], methods: Mapping[str, WhatIfMethod], points: int, primary: str) -> list[str]:
    """Which values gave models so far off that their score is not a number."""
    notes = []
    for name, method in zip(names, methods.values(), strict=True):
        known = [point.value for point in method.points]
        if gone := [f"{value:g}" for value in strengths(name, points) if value is not None and value not in known]:
            notes.append(f"{_called(name)} at {method.key} = {', '.join(gone)} has no finite {primary}: left out.")
    return notes


def _method(session: Session, plain: Results, name: str, points: int, on_evaluated: OnEvaluated) -> WhatIfMethod:
    key, _ = _sweep_of(name)
    tried = [_point(session, plain, name, value, on_evaluated) for value in strengths(name, points)]
    scored = [point for point in tried if point.metrics.average_accuracy is not None]
    if not scored:
        raise StockpotError(f"{option('methods')}: no merge by {name} has a finite {plain.primary}; leave it out.")
    sign = 1 if plain.scores[plain.primary].higher_is_better else -1
    return WhatIfMethod(
        method=_config(name, None, session).model_dump(mode="json", exclude_none=True, exclude={key} if key else set()),
        key=key,
        points=scored,
        best=best_index([sign * _measured(point.metrics.average_accuracy) for point in scored]),
        knee=knee(
            [(sign * _measured(p.metrics.newest_accuracy), sign * _measured(p.metrics.past_accuracy)) for p in scored]
        ),
    )


def _measured(score: float | None) -> float:
    assert score is not None, "every task so far was evaluated"
    return score


def _config(name: str, value: float | None, session: Session) -> BaseConfig:
    key, sweep = _sweep_of(name)
    strength = {} if key is None or value is None else {key: value}
    config: BaseConfig = config_of(name).model_validate({"name": name, **sweep.settings, **strength})
    return config.settled(session.recipe.model.origin)


def _point(session: Session, plain: Results, name: str, value: float | None, on_evaluated: OnEvaluated) -> WhatIfPoint:
    recorded = plain.scores[plain.primary]
    count, untouched = len(plain.tasks), _plain_tasks(session)
    method = build(_config(name, value, session))
    rows: list[list[float | None]] = []
    controls = {control: values[: 1 + untouched] for control, values in recorded.controls.items()}
    for index in range(count):
        model = _merged(session, method, index)
        if index < untouched:  # not merged: the run's own model, which was evaluated then
            rows.append([recorded.matrix[0][0], *[None] * (count - 1)])
            continue
        scores = evaluate_model(_without_later_tasks(session, index + 1), model, learnt=index + 1)
        rows.append([*scores["scores"][plain.primary], *[None] * (count - index - 1)])
        for control, score in scores["controls"][plain.primary].items():
            controls[control].append(score)
        on_evaluated(name)
    made = Scores(**{**recorded.model_dump(), "matrix": rows, "controls": controls})
    everywhere = not _sweep_of(name)[1].continues or value == _plain_strength(name)
    exact = [everywhere or index <= untouched for index in range(count)]
    return WhatIfPoint(value=value, scores=made, metrics=stream_metrics(made), exact=exact)


def _merged(session: Session, method: Method[Any], index: int) -> nn.Module:
    """The model after task `index`: as in a run's loop, with the run's own model in place of training."""
    run = session.run
    model, grown = session.starting_model(method.config.starts_from, index)
    task = Task(
        index=index,
        name=run.tasks[index].name,
        seed=derive(run.seed, "task", index),
        model=model,
        total_steps=max(1, Costs(**run.finished[index]["costs"]).steps),  # an old journal may lack them
        checkpoint=lambda source: session.checkpoint(source, index),
        new=grown,
        origin=session.recipe.model.origin,
        drawn=run.drawn(index),
    )
    method.task_start(task)
    run.verify_model(index)
    trained = session.load(index)
    model.load_state_dict(trained.state_dict())
    method.post_hoc(task)
    return model


def _without_later_tasks(session: Session, learnt: int) -> Session:
    """The session with its first `learnt` tasks only: evaluation leaves the others out."""
    return replace(session, stream=session.stream.first(learnt))


def _start(session: Session) -> list[float]:
    """The start model's scores on every task, evaluated as after the last one."""
    count = len(session.stream.tasks)
    model, _ = session.starting_model("pretrained", count - 1)
    scores = evaluate_model(session, model, learnt=count)["scores"]
    return cast(list[float], scores[session.recipe.primary_score.title])
