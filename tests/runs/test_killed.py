"""SIGKILL at any instant, within a write too: the resumed run is the unbroken one, bit for bit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import TASKS, VIT, Stockpot, Unbroken, journal, results, same, settled
from tiers import sample

Make = Callable[..., Unbroken]
INSTANTS = 20
SFA_IN_THE_TRAINER: dict[str, Any] = {}
REPLAY_IN_THE_PLAIN_LOOP: dict[str, Any] = {
    "loop": "plain",
    "model": VIT,
    "method": {"name": "replay", "count": 10, "budget": "reservoir", "mix": "batch", "per_batch": 2},
}
MLP_IN_THE_PLAIN_LOOP: dict[str, Any] = {
    "loop": "plain",
    "boundary": "keep-optimizer",
    "head": "seen",
    "keep": "needed",
}


def go_on(stockpot: Stockpot, whole: Unbroken, run: Path) -> None:
    """Resumes; a run without the first line of its journal does not exist: `resume` says so, and `run` starts it."""
    begun = (run / "journal.jsonl").is_file() and b"\n" in (run / "journal.jsonl").read_bytes()
    done = stockpot("resume", run, root=run)
    if not begun:
        assert done.code == 2
        assert str(run) in done.error
        done = stockpot("run", whole.file, "-o", run, root=run)
    assert done.code == 0, done.err
    same(run, whole.run)
    settled(run)


def kill(stockpot: Stockpot, whole: Unbroken, run: Path, **fault: Any) -> None:
    """Starts the run again in another folder, and kills it at an event."""
    done = stockpot("run", whole.file, "-o", run, root=run, fault={"do": "kill", **fault})
    assert done.code == -9, done.err
    file = run / "journal.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    events = [json.loads(line) for line in lines if line.endswith(b"\n")]
    if events and events[-1]["event"] == "checkpoint":  # the work until there is not lost
        task, step = events[-1]["task"], events[-1]["step"]
        folder = run / "checkpoints" / f"{task + 1:02d}-{TASKS[task]['name']}" / f"checkpoint-{step}"
        assert {path.name for path in folder.iterdir()} == set(events[-1]["files"])


@pytest.mark.parametrize("instant", sample(range(INSTANTS)))
@pytest.mark.parametrize("changes", [SFA_IN_THE_TRAINER, REPLAY_IN_THE_PLAIN_LOOP], ids=["trainer-sfa", "plain-replay"])
def test_a_run_killed_at_any_instant_is_resumed_bit_for_bit(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, changes: dict[str, Any], instant: int
) -> None:
    whole = unbroken(**changes)
    at = 1 + instant * (len(whole.events) - 1) // (INSTANTS - 1)
    kill(stockpot, whole, tmp_path / "run", at=at)
    go_on(stockpot, whole, tmp_path / "run")


WRITES = [
    # The lines: created, started, checkpoint, task, checkpoint.
    *[("append", "journal", line) for line in (1, 2, 3, 6, 7)],
    ("tensors", "00-start/model", 1),
    ("tensors", "checkpoint-3/", 2),  # model.safetensors, optimizer.safetensors, method.safetensors
    ("tensors", "02-second/model", 1),
    ("tensors", "state/", 2),
    ("text", "place.json", 3),
    ("text", "README.md", 2),
    ("sync", ".tmp-results.json", 1),
    ("sync", ".tmp-checkpoint-6/", 5),
    ("rename", ".tmp-03-third", 1),
    ("rename", "checkpoint-3", 4),  # of the older checkpoint, to be deleted
    ("unlink", "old-checkpoint-3", 5),
    ("unlink", "old-01-first", 2),  # the model that keep: needed drops
    ("unlink", "old-02-second", 3),
    ("rmdir", "state/", 2),
]


@pytest.mark.parametrize(
    ("kind", "path", "at"),
    sample(WRITES),
)
def test_a_kill_in_the_middle_of_a_write_or_a_deletion_is_repaired(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, kind: str, path: str, at: int
) -> None:
    whole = unbroken(**MLP_IN_THE_PLAIN_LOOP)
    kill(stockpot, whole, tmp_path / "run", kind=kind, path=path, at=at)
    go_on(stockpot, whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("pickle", "optimizer.pt"),
        ("rename", "scheduler"),
        pytest.param("pickle", "rng_state.pth", marks=pytest.mark.thorough),
        pytest.param("open", "trainer_state.json", marks=pytest.mark.thorough),
    ],
)
def test_a_half_written_checkpoint_of_the_trainer_does_not_exist(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, kind: str, path: str
) -> None:
    whole = unbroken()
    kill(stockpot, whole, tmp_path / "run", kind=kind, path=path, at=4)
    assert [event["step"] for event in journal(tmp_path / "run") if event["event"] == "checkpoint"] == [3, 6, 3]
    go_on(stockpot, whole, tmp_path / "run")


def test_a_run_killed_again_and_again_gets_there(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    whole, run = unbroken(**REPLAY_IN_THE_PLAIN_LOOP), tmp_path / "run"
    kill(stockpot, whole, run, at=60)
    for number in range(12):
        done = stockpot("resume", run, root=run, fault={"do": "kill", "at": 60 + number})
        if done.code == 0:
            break
        assert done.code == -9, done.err
    assert number > 3
    go_on(stockpot, whole, run)


@pytest.mark.thorough
@pytest.mark.parametrize("share", [0.5, *(pytest.param(share, marks=pytest.mark.thorough) for share in (0.2, 0.8))])
def test_the_wall_clock_may_choose_the_instant(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, share: float
) -> None:
    whole, run = unbroken(**REPLAY_IN_THE_PLAIN_LOOP), tmp_path / "run"
    began = time.perf_counter()
    stockpot("run", whole.file, "-o", tmp_path / "timed", root=run)
    child = stockpot.start("run", whole.file, "-o", run, root=run)
    time.sleep(share * (time.perf_counter() - began))
    assert child.kill().code in (-9, 0)
    go_on(stockpot, whole, run)


def test_a_finished_run_is_left_as_it_is(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    whole, run = unbroken(**REPLAY_IN_THE_PLAIN_LOOP), tmp_path / "run"
    kill(stockpot, whole, run, kind="sync", path=".tmp-results.json", at=3)  # after the last task's line
    before = (run / "journal.jsonl").read_bytes()
    assert len(results(run)["tasks"]) == 2
    go_on(stockpot, whole, run)
    assert (run / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("changes", [SFA_IN_THE_TRAINER, MLP_IN_THE_PLAIN_LOOP], ids=["trainer", "plain"])
def test_everything_is_synced_before_it_is_journalled(unbroken: Make, changes: dict[str, Any]) -> None:
    events = unbroken(**changes).events
    dirty: set[str] = set()  # files written, and folders with new entries
    known: set[str] = {""}
    published = 0
    for kind, path in events:
        folder, _, name = path.rpartition("/")
        if kind == "sync":
            dirty.discard(path)
        elif kind in ("tensors", "pickle", "text", "open"):
            dirty.add(path)
        elif kind == "mkdir" and path not in known:
            known.add(path)
            dirty.add(folder)
        elif kind == "rename" and name.startswith(".tmp-"):
            assert not {other for other in dirty if other.startswith(path)}, path
            dirty.add(folder)
            published += 1
        elif kind == "rename" and path in dirty:  # lifted out of the folder that the Trainer made
            dirty.remove(path)
            dirty.add(f"{folder.rpartition('/')[0]}/{name}")
        elif kind == "rmdir":
            dirty = {other for other in dirty if other != path}
            known.discard(path)
        elif kind == "append":
            assert not dirty, path
            dirty.add(path)
    assert published == 1 + 3 + 3 + 6  # start, models, states, checkpoints
