"""Synthetic runs and comparisons: a stream whose method keeps a given share of what sequential training loses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stockpot.evaluation.metrics import summarise
from stockpot.evaluation.statistics import compare
from stockpot.results import Comparison, Costs, Results, Scores

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
        metrics=summarise(scores, chained=name != "joint"),
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


def make_comparison(
    seeds: int = 3, methods: dict[str, dict[str, Any]] | None = None, K: int = 3, **run: Any
) -> tuple[Comparison, dict[str, list[Results]]]:
    """A comparison of `methods` (label → arguments of `make_run`), and its runs."""
    cells: dict[str, list[Results]] = {}
    for label, arguments in (methods or METHODS).items():
        given = {"name": label, "label": label, "K": K, **run, **arguments}
        cells[label] = [make_run(seed=seed, **given) for seed in range(seeds)]
    first = next(iter(cells.values()))[0]
    summaries = compare({
        label: [(r.seed, f"{label}/{r.seed}", r) for r in runs] for label, runs in cells.items()
    })  # fmt: skip
    comparison = Comparison(
        name="quickstart",
        scenario=first.scenario,
        tasks=first.tasks,
        seeds=list(range(seeds)),
        primary="accuracy",
        methods=summaries,
        versions=first.versions,
        commit=first.commit,
    )
    return comparison, cells


@pytest.fixture
def run_of() -> Callable[..., Results]:
    return make_run


@pytest.fixture
def comparison_of() -> Callable[..., tuple[Comparison, dict[str, list[Results]]]]:
    return make_comparison


@pytest.fixture
def hostile() -> str:
    return HOSTILE
