"""What a task cost, counted over all the processes that worked on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from running import TASKS, TRAIN, Stockpot, Unbroken, journal, results

Make = Callable[..., Unbroken]
SECONDS = ("training_seconds", "training_cpu_seconds", "averaging_seconds", "averaging_cpu_seconds")


@pytest.mark.parametrize("loop", ["trainer", "plain"])
def test_seconds_go_on_and_steps_and_averages_are_exact(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, loop: str
) -> None:
    whole = unbroken(
        loop=loop, tasks=TASKS[:1], method={"name": "sfa", "first_task": "average", "every": 1},
        train={**TRAIN, "save_steps": 500},
    )  # fmt: skip
    run = tmp_path / "run"
    term = {"do": "term", "kind": "step", "at": 2}
    assert stockpot("run", whole.file, "-o", run, root=run, fault=term).code == 143
    parts = []
    for _ in range(3):
        parts.append(journal(run)[-1]["seconds"])
        term["at"] = 1
        code = stockpot("resume", run, root=run, fault=term).code
        assert code == 143
    assert parts == sorted(parts)
    assert all(wall > 0 and cpu > 0 for wall, cpu in parts)
    wall, cpu = journal(run)[-1]["seconds"]
    assert stockpot("resume", run, root=run).code == 0
    costs, expected = results(run)["costs"], results(whole.run)["costs"]
    assert costs["training_seconds"] >= wall
    assert costs["training_cpu_seconds"] >= cpu
    assert costs["steps"] == expected["steps"] == 8
    assert costs["averages"] == expected["averages"] == 8
    assert 0 < costs["averaging_seconds"] < costs["training_seconds"]


def test_work_that_was_lost_is_not_counted_twice(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    whole, run = unbroken(loop="plain"), tmp_path / "run"
    assert stockpot("run", whole.file, "-o", run, root=run, fault={"do": "kill", "kind": "step", "at": 13}).code == -9
    assert stockpot("resume", run, root=run).code == 0
    for mine, theirs in zip(results(run)["task_costs"], results(whole.run)["task_costs"], strict=True):
        assert (mine["steps"], mine["averages"]) == (theirs["steps"], theirs["averages"])
        assert all(mine[key] >= 0 for key in SECONDS)


def test_the_totals_are_those_of_the_tasks(unbroken: Make) -> None:
    values = results(unbroken(loop="plain").run)
    for key in (*SECONDS, "steps", "averages", "evaluation_seconds"):
        assert values["costs"][key] == pytest.approx(sum(costs[key] for costs in values["task_costs"]))
    for key in ("peak_memory_bytes", "stored_bytes", "extra_memory_bytes"):
        assert values["costs"][key] == max(costs[key] for costs in values["task_costs"])
