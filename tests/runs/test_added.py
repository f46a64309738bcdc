"""`stockpot add`: the stream that grew is the stream that was written down at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from running import TASKS, Stockpot, Unbroken, journal, results, same, settled, task, tree, write
from safetensors.torch import load_file
from tiers import crossed, sample
from transformers import AutoConfig

Make = Callable[..., Unbroken]
HEAD = "classifier.weight"


def copy_of(whole: Unbroken, folder: Path) -> Path:
    """A copy of a finished run, to be changed."""
    copytree(whole.run, folder)
    return folder


def add(stockpot: Stockpot, run: Path, entry: dict[str, Any], *options: object, **more: Any) -> None:
    """Adds a task to a run, which must work."""
    file = write(run.parent / "task.yaml", entry)
    done = stockpot("add", run, file, *options, root=run.parent, **more)
    assert done.code == 0, done.err


def as_one_stream(run: Path, whole: Path) -> None:
    """`same`, where the recipe of the shorter stream is the other's by now."""
    assert (run / "recipe.yaml").read_text() == (whole / "recipe.yaml").read_text()
    same(run, whole)


@pytest.mark.parametrize(("method", "loop"), crossed(["sfa", "wise_ft", "replay", "joint"], ["trainer", "plain"]))
def test_a_task_added_to_a_growing_head_equals_the_longer_stream(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, method: str, loop: str
) -> None:
    settings: dict[str, Any] = {"head": "seen", "loop": loop, "method": {"name": method}, "boundary": "keep-optimizer"}
    if method in ("sfa", "wise_ft"):
        settings["method"]["first_task"] = "average"
    run = copy_of(unbroken(**settings, tasks=TASKS[:1]), tmp_path / "run")
    add(stockpot, run, TASKS[1])
    as_one_stream(run, unbroken(**settings, tasks=TASKS[:2]).run)


def test_adding_twice_equals_the_stream_of_three(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "head": "seen", "loop": "plain", "method": {"name": "sfa", "first_task": "average"},
        "controls": [{"name": "tilted", "data": {"classes": [0, 1], "rotate": 20}}],
    }  # fmt: skip
    run = copy_of(unbroken(**settings, tasks=TASKS[:1]), tmp_path / "run")
    add(stockpot, run, TASKS[1])
    add(stockpot, run, TASKS[2])
    whole = unbroken(**settings)
    as_one_stream(run, whole.run)
    settled(run)
    scores = results(run)["scores"]["accuracy"]
    assert None not in scores["initial"]
    assert all(None not in row for row in scores["matrix"])


def test_a_branch_leaves_the_run_byte_for_byte(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"head": "seen", "loop": "plain", "method": {"name": "replay"}}
    run = copy_of(unbroken(**settings, tasks=TASKS[:2]), tmp_path / "run")
    with (run / "journal.jsonl").open("a") as file:
        file.write('{"event": "ta')  # a line that a crash tore: even that stays
    before = tree(run)
    add(stockpot, run, TASKS[2], "-o", tmp_path / "branch")
    assert tree(run) == before
    as_one_stream(tmp_path / "branch", unbroken(**settings).run)
    done = stockpot("add", run, tmp_path / "task.yaml", "-o", tmp_path / "branch", root=tmp_path)
    assert done.code == 2
    assert f"{tmp_path / 'branch'}: already exists" in done.error


@pytest.mark.parametrize("at", sample([1, 30, 60, 90]))
def test_a_branch_that_is_killed_can_be_made_again(stockpot: Stockpot, unbroken: Make, tmp_path: Path, at: int) -> None:
    settings: dict[str, Any] = {"head": "seen", "loop": "plain", "method": {"name": "replay"}}
    run = copy_of(unbroken(**settings, tasks=TASKS[:2]), tmp_path / "run")
    before, branch = tree(run), tmp_path / "branch"
    file = write(tmp_path / "task.yaml", TASKS[2])
    command = ("add", run, file, "-o", branch)
    assert stockpot(*command, root=tmp_path, fault={"do": "kill", "at": at}).code == -9
    if not branch.exists():
        assert stockpot(*command, root=tmp_path).code == 0
    elif not any(event["event"] == "added" for event in journal(branch)):
        assert stockpot("add", branch, file, root=branch).code == 0
    else:
        assert stockpot("resume", branch, root=branch).code == 0
    assert tree(run) == before
    as_one_stream(branch, unbroken(**settings).run)


@pytest.mark.parametrize("at", sample([1, 4, 5, 6, 7, 20, 60]))
def test_an_addition_that_is_killed_goes_on(stockpot: Stockpot, unbroken: Make, tmp_path: Path, at: int) -> None:
    settings: dict[str, Any] = {"head": "seen", "loop": "plain", "method": {"name": "replay"}}
    run = copy_of(unbroken(**settings, tasks=TASKS[:2]), tmp_path / "run")
    file = write(tmp_path / "task.yaml", TASKS[2])
    assert stockpot("add", run, file, root=run, fault={"do": "kill", "at": at}).code == -9
    recorded = b'"event": "added"' in (run / "journal.jsonl").read_bytes().rpartition(b"\n")[0]
    done = stockpot("resume", run, root=run) if recorded else stockpot("add", run, file, root=run)
    assert done.code == 0, done.err
    as_one_stream(run, unbroken(**settings).run)


def test_an_unfinished_run_takes_no_task(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    whole, run = unbroken(loop="plain"), tmp_path / "run"
    fault = {"do": "kill", "kind": "step", "at": 12}
    assert stockpot("run", whole.file, "-o", run, root=run, fault=fault).code == -9
    before = tree(run)
    file = write(tmp_path / "task.yaml", task("fourth", 6, 7))
    for options in ([], ["-o", tmp_path / "branch"]):
        done = stockpot("add", run, file, *options, root=run)
        assert done.code == 2
        assert f"first continue it with `stockpot resume {run}`" in done.error
    assert tree(run) == before
    assert not (tmp_path / "branch").exists()


def test_a_class_of_an_added_task_gets_a_row_and_the_old_rows_stay(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path
) -> None:
    beta = {"name": "sfa", "beta": 1.0, "p": 1.0}  # the last average gives the anchor back
    run = copy_of(unbroken(tasks=TASKS[:2], method=beta), tmp_path / "run")
    add(stockpot, run, task("fourth", 3, 6, 7))
    old, new = (run / "tasks" / place / "model" for place in ("02-second", "03-fourth"))
    before, after = (load_file(folder / "model.safetensors") for folder in (old, new))
    assert before[HEAD].shape[0] == 4
    assert after[HEAD].shape[0] == 6
    assert AutoConfig.from_pretrained(old).id2label == dict(enumerate("0123"))
    assert AutoConfig.from_pretrained(new).id2label == dict(enumerate("012367"))
    for name, tensor in before.items():
        assert after[name][: len(tensor)].equal(tensor), name
    assert after[HEAD][4:].abs().max() > 0.03  # drawn with a spread of 0.02, and trained since
    assert results(run)["scores"]["accuracy"]["initial"][2] is not None


def test_a_name_is_taken_once(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    run = copy_of(unbroken(tasks=TASKS[:2], loop="plain"), tmp_path / "run")
    before = tree(run)
    done = stockpot("add", run, write(tmp_path / "task.yaml", task("first", 6)), root=run)
    assert done.code == 2
    assert "the stream already has a task of this name" in done.error
    assert tree(run) == before
