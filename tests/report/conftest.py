"""Synthetic runs and comparisons: a stream whose method keeps a given share of what sequential training loses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stockpot.evaluation.method_summaries import compare_methods
from stockpot.evaluation.metrics import stream_metrics
from stockpot.evaluation.statistics import METRIC_NAMES, estimate_mean
from stockpot.results import (
    Cell,
    Comparison,
    Costs,
    Estimate,
    FrontPoint,
    MethodSummary,
    Metrics,
    Results,
    Scores,
    Trial,
    Tuning,
)

HOSTILE = "<script>alert('x')</script> & $\\frac{1}{$ \"q\""


def make_run(
    name: str = "sequential",
    seed: int = 0,
    *,
    K: int = 3,
    keep: float = 0.0,
    peak: float = 0.97,
    label: str | None = None,
    tasks: list[str] | None = None,
    noise: float = 0.01,
    **costs: Any,
) -> Results:
    """A run whose scores on a task fall after it by (1 − keep) of 0.9, with noise of its own and a seed's noise."""
    own = np.random.default_rng([seed, sum(map(ord, label or name))])
    R = [
        [float(np.clip((peak if j == i else 0.02 if j > i else peak - 0.9 * (1 - keep)) + noise * own.normal(), 0, 1))
         for j in range(K)]
        for i in range(K)
    ]  # fmt: skip
    names = tasks or [f"task{j}" for j in range(K)]
    scores = Scores(
        matrix=R,
        initial=[0.1] * K,
        controls={"noise": [0.5 - 0.05 * i for i in range(K + 1)]},
        higher_is_better=True,
        unit="fraction",
    )
    seconds = 10 + 0.3 * float(own.normal())
    spent: dict[str, Any] = {
        "training_seconds": seconds,
        "training_cpu_seconds": 2 * seconds,
        "evaluation_seconds": 0.4,
        "peak_memory_bytes": 812_000_000,
        "steps": 400,
        **costs,
    }
    return Results(
        label=label or name,
        method={"name": name, "beta": 0.25},
        scenario="class-incremental",
        tasks=names,
        scores={"accuracy": scores},
        primary="accuracy",
        metrics=stream_metrics(scores, chained=name != "joint"),
        costs=Costs(**spent),
        task_costs=[Costs(**{key: type(value)(value / K) for key, value in spent.items()}) for _ in range(K)],
        seed=seed,
        head={task: [f"class {2 * j}", f"class {2 * j + 1}"] for j, task in enumerate(names)},
        notes=["The first task was not averaged: nothing had been learnt that could be kept."],
        versions={"stockpot": "0.1.0", "torch": "2.13.0"},
        commit="0123abc",
        data={task: {"rows": 100} for task in names},
        recipe={"model": {"config": {"model_type": "vit"}}, "method": {"name": name, "beta": 0.25}, "seeds": [seed]},
    )


METHODS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "sfa": {"keep": 0.95, "peak": 0.93, "averaging_seconds": 0.04, "averages": 8, "extra_memory_bytes": 3_400_000},
    "wise_ft": {"keep": 0.5, "peak": 0.85, "averaging_seconds": 0.01, "averages": 2, "extra_memory_bytes": 3_400_000},
    "replay": {"keep": 0.93, "stored_data_bytes": 1_260_000, "stored_bytes": 1_260_000, "steps": 440,
               "training_seconds": 13.1},
    "joint": {"keep": 0.99, "stored_data_bytes": 12_600_000, "stored_bytes": 12_600_000, "training_seconds": 20.2},
}  # fmt: skip


# Eighteen more, told apart by what they keep, as long lists of methods in the field are.
MANY: dict[str, dict[str, Any]] = METHODS | {
    f"{name}-{k}": {"name": name, "keep": 0.15 + 0.045 * place, "peak": 0.96 - 0.01 * (place % 5), **costs}
    for place, (name, k, costs) in enumerate([
        (name, k, {"extra_memory_bytes": 1_000_000 * (k + 1), "stored_data_bytes": data,
                   "stored_bytes": data + 5000 * k,
                   "training_seconds": 11.0 + 3 * k})
        for name, data in (("ewc", 0), ("l2", 0), ("agem", 400_000), ("magmax", 0), ("replay", 900_000))
        for k in range(4)
    ])
    if place < 17
}  # fmt: skip


def _averaged(runs: list[Results]) -> Results:
    """One order: the mean of its seeds' metrics and costs, as if it were one run."""

    def mean(values: list[Any]) -> Any:
        return None if None in values else sum(values) / len(values)

    metrics = {key: mean([getattr(run.metrics, key) for run in runs]) for key in METRIC_NAMES}
    costs = {key: mean([getattr(run.costs, key) for run in runs]) for key in Costs.model_fields}
    return runs[0].model_copy(update={"metrics": Metrics(**metrics), "costs": runs[0].costs.model_copy(update=costs)})


def _over_orders(summary: MethodSummary, runs: list[tuple[int, Results]]) -> MethodSummary:
    """The summary over orders, with every cell's own value."""
    fields: dict[str, Any] = {"cells": [Cell(seed=run.seed, order=k, run=f"{k}/{run.seed}") for k, run in runs]}
    for key in (*METRIC_NAMES, *Costs.model_fields):
        values = [getattr(run.metrics if key in METRIC_NAMES else run.costs, key) for _, run in runs]
        fields[key] = getattr(summary, key).model_copy(update={"values": values})
    return summary.model_copy(update=fields)


def make_comparison(
    seeds: int = 3,
    methods: dict[str, dict[str, Any]] | None = None,
    K: int = 3,
    orders: int = 1,
    tuned: bool = False,
    front: bool = False,
    **run: Any,
) -> tuple[Comparison, dict[str, list[Results]]]:
    """A comparison of `methods` (label → arguments of `make_run`), and its runs.

    Order k turns the tasks round by k places. With `tuned` every method but floor and ceiling has four trials; with
    `front` they have three strengths.
    """
    names = run.pop("tasks", None) or [f"task{j}" for j in range(K)]
    turned = [names[k:] + names[:k] for k in range(orders)]
    found: dict[str, list[tuple[int, Results]]] = {}
    for label, arguments in (methods or METHODS).items():
        given = {"name": label, "label": label, "K": K, **run, **arguments}
        found[label] = []
        for k, tasks in enumerate(turned):
            for seed in range(seeds):
                one = make_run(seed=seed + 100 * k, tasks=tasks, **given)
                found[label].append((k, one.model_copy(update={"seed": seed})))
    cells = {label: [one for _, one in runs] for label, runs in found.items()}
    first = next(iter(cells.values()))[0]
    if orders == 1:
        summaries = compare_methods(
            {label: [(r.seed, f"{label}/{r.seed}", r) for r in runs] for label, runs in cells.items()}
        )
    else:
        summaries = compare_methods({
            label: [(k, "", _averaged([one for order, one in runs if order == k])) for k in range(orders)]
            for label, runs in found.items()
        })  # fmt: skip
        summaries = {label: _over_orders(summary, found[label]) for label, summary in summaries.items()}
    searched = [label for label in cells if cells[label][0].method["name"] not in ("sequential", "joint")]
    comparison = Comparison(
        name="quickstart",
        scenario=first.scenario,
        tasks=first.tasks,
        seeds=list(range(seeds)),
        primary="accuracy",
        orders=turned,
        methods=summaries,
        tuning=_tuning(searched) if tuned else None,
        front=[point for label in searched for point in _points(label, summaries[label])] if front else [],
        versions=first.versions,
        commit=first.commit,
    )
    return comparison, cells


def _tuning(labels: list[str]) -> Tuning:
    values = (0.05, 0.1, 0.25, 0.5)
    trials = {
        label: [
            Trial(
                keys={"beta": value}, score=0.9 - 0.01 * k - (value - values[k % 4]) ** 2, run=f"trials/{label}/{value}"
            )
            for value in values
        ]
        for k, label in enumerate(labels)
    }
    return Tuning(
        search="grid",
        trials=4,
        seeds=[100, 101],
        split="a tenth of each task's training data",
        methods=trials,
        chosen={label: {"beta": values[k % 4]} for k, label in enumerate(labels)},
    )


def _points(label: str, summary: MethodSummary) -> list[FrontPoint]:
    """Three strengths: each keeps more of the past and learns less of the new."""

    def shifted(key: str, by: float) -> Estimate:
        return estimate_mean([None if value is None else value + by for value in getattr(summary, key).values])

    return [
        FrontPoint(
            method=label,
            key="beta",
            value=value,
            cells=summary.cells,
            past_accuracy=shifted("past_accuracy", 0.04 * step - 0.04),
            newest_accuracy=shifted("newest_accuracy", -0.05 * step),
            average_accuracy=summary.average_accuracy,
            training_seconds=shifted("training_seconds", 2.0 * step),
            extra_memory_bytes=summary.extra_memory_bytes,
            stored_bytes=shifted("stored_bytes", 1e5 * step),
            stored_data_bytes=summary.stored_data_bytes,
            stored_model_bytes=shifted("stored_model_bytes", 1e5 * step),
            controls={name: found.change for name, found in summary.controls.items()},
        )
        for step, value in reversed(list(enumerate((0.1, 0.25, 0.5))))
    ]


@pytest.fixture(scope="session")
def run_of() -> Callable[..., Results]:
    return make_run


@pytest.fixture(scope="session")
def comparison_of() -> Callable[..., tuple[Comparison, dict[str, list[Results]]]]:
    return make_comparison


@pytest.fixture
def many_methods() -> dict[str, dict[str, Any]]:
    return MANY


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture(autouse=True)
def _pictures(request: pytest.FixtureRequest) -> None:
    """Pages are tested for what they say; two modules draw their figures as users get them."""
    if request.module.__name__ not in ("test_figures", "test_browser"):
        request.getfixturevalue("quick_pictures")
