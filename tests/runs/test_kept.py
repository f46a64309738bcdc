"""`keep: needed` deletes what nothing reads again, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from running import TASKS, Stockpot, Unbroken, journal, models, results, settled, task, write
from safetensors.torch import load_file
from tiers import sample

Make = Callable[..., Unbroken]
METHODS: list[dict[str, Any]] = [
    {"name": "sfa", "first_task": "average"},
    {"name": "sfa", "anchor": "pretrained"},
    {"name": "joint"},
    {"name": "replay"},
]


@pytest.mark.parametrize("method", sample(METHODS), ids=str)
def test_the_start_and_the_newest_model_are_kept(unbroken: Make, method: dict[str, Any]) -> None:
    needed = unbroken(loop="plain", keep="needed", method=method).run
    everything = unbroken(loop="plain", keep="all", method=method).run
    assert models(needed) == ["00-start", "03-third"]
    assert models(everything) == ["00-start", "01-first", "02-second", "03-third"]
    for place in models(needed):
        file = f"tasks/{place}/model/model.safetensors"
        assert (needed / file).read_bytes() == (everything / file).read_bytes()
    assert results(needed)["scores"] == results(everything)["scores"]
    settled(needed)


@pytest.mark.parametrize("method", sample(METHODS), ids=str)
def test_a_task_can_still_be_added(stockpot: Stockpot, unbroken: Make, tmp_path: Path, method: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"loop": "plain", "head": "seen", "method": method}
    fourth = task("fourth", 6, 7)
    run = tmp_path / "run"
    copytree(unbroken(**settings, keep="needed").run, run)
    done = stockpot("add", run, write(tmp_path / "task.yaml", fourth), root=run)
    assert done.code == 0, done.err
    assert models(run) == ["00-start", "04-fourth"]
    whole = unbroken(**settings, tasks=[*TASKS, fourth]).run
    file = "tasks/04-fourth/model/model.safetensors"
    mine, theirs = load_file(run / file), load_file(whole / file)
    assert all(mine[name].equal(theirs[name]) for name in theirs)
    scores, expected = (results(path)["scores"]["accuracy"] for path in (run, whole))
    column = [row[3] for row in scores["matrix"]]
    assert column[:2] == [None, None]  # of models that are gone
    assert column[2:] == [row[3] for row in expected["matrix"]][2:]
    assert scores["initial"] == expected["initial"]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("rename", "tasks/02-second"),
        ("unlink", "tasks/.tmp-old-02-second/model"),
        ("rmdir", "tasks/.tmp-old-02-second"),
    ],
)
def test_a_deletion_that_was_killed_does_not_stand_in_the_way(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, kind: str, path: str
) -> None:
    whole, run = unbroken(loop="plain", head="seen", method={"name": "replay"}, keep="needed"), tmp_path / "run"
    fault = {"do": "kill", "kind": kind, "path": path, "at": 1}
    assert stockpot("run", whole.file, "-o", run, root=run, fault=fault).code == -9
    assert len([event for event in journal(run) if event["event"] == "task"]) == 3
    done = stockpot("add", run, write(tmp_path / "task.yaml", task("fourth", 6, 7)), root=run)
    assert done.code == 0, done.err
    settled(run)
