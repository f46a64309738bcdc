"""SIGTERM and Ctrl-C: the step is finished, a checkpoint is written, the exit code says which; the run can go on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
from running import TASKS, TRAIN, Stockpot, Unbroken, journal, same, settled, tree, write
from tiers import crossed

Make = Callable[..., Unbroken]
SLOW = {**TRAIN, "save_steps": 500}  # no checkpoint but the one that is asked for


@pytest.mark.parametrize(("signalled", "loop"), crossed([("term", 143), ("interrupt", 130)], ["trainer", "plain"]))
def test_it_stops_after_the_step_with_a_checkpoint(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, signalled: tuple[str, int], loop: str
) -> None:
    do, code = signalled
    whole, run = unbroken(loop=loop, train=SLOW), tmp_path / "run"
    done = stockpot("run", whole.file, "-o", run, root=run, fault={"do": do, "kind": "step", "at": 13})
    assert done.code == code, done.err
    assert f"Go on with: stockpot resume {run}" in done.out
    assert "Traceback" not in done.err
    last = journal(run)[-1]
    assert (last["event"], last["task"], last["step"]) == ("checkpoint", 1, 5)
    assert (run / "checkpoints" / "02-second" / "checkpoint-5").is_dir()
    assert stockpot("resume", run, root=run).code == 0
    same(run, whole.run)
    settled(run)


@pytest.mark.parametrize("loop", ["trainer", pytest.param("plain", marks=pytest.mark.thorough)])
def test_it_can_be_stopped_at_every_step(stockpot: Stockpot, unbroken: Make, tmp_path: Path, loop: str) -> None:
    whole, run = unbroken(loop=loop, train=SLOW, tasks=TASKS[:1], method={"name": "replay"}), tmp_path / "run"
    term = {"do": "term", "kind": "step", "at": 1}
    assert stockpot("run", whole.file, "-o", run, root=run, fault=term).code == 143
    for step in range(2, 8):
        assert stockpot("resume", run, root=run, fault=term).code == 143
        assert journal(run)[-1]["step"] == step
    assert stockpot("resume", run, root=run, fault=term).code == 0  # the last step: nothing is left to stop
    same(run, whole.run)


@pytest.mark.parametrize(
    ("kind", "at", "events"),
    [
        ("append", 1, ["created", "started"]),
        ("evaluate", 2, ["created", "started"]),
        ("evaluate", 5, ["created", "started", "task"]),
        ("step", 8, ["created", "started", "task"]),  # the task's last one
        ("tensors", 3, ["created", "started", "task"]),  # while the task's model is written
    ],
)
def test_outside_training_it_stops_when_the_task_at_hand_is_recorded(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, kind: str, at: int, events: list[str]
) -> None:
    whole, run = unbroken(loop="plain", train=SLOW), tmp_path / "run"
    done = stockpot("run", whole.file, "-o", run, root=run, fault={"do": "term", "kind": kind, "at": at})
    assert done.code == 143, done.err
    assert [event["event"] for event in journal(run)] == events
    assert stockpot("resume", run, root=run).code == 0
    same(run, whole.run)


def test_a_signal_in_the_last_evaluation_has_nothing_to_stop(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path
) -> None:
    whole, run = unbroken(loop="plain", train=SLOW), tmp_path / "run"
    done = stockpot("run", whole.file, "-o", run, root=run, fault={"do": "term", "kind": "evaluate", "at": 12})
    assert done.code == 0
    same(run, whole.run)


def test_a_second_signal_stops_at_once(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    whole, run = unbroken(loop="plain", train=SLOW), tmp_path / "run"
    twice = {"do": "term", "kind": "sync", "path": "00-start", "at": 1, "lasting": True}
    done = stockpot("run", whole.file, "-o", run, root=run, fault=twice)
    assert done.code == -signal.SIGTERM
    assert stockpot("resume", run, root=run).code == 0
    same(run, whole.run)


def test_an_addition_that_is_stopped_goes_on(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    settings = {"loop": "plain", "head": "seen", "method": {"name": "replay"}, "train": SLOW}
    run = tmp_path / "run"
    copytree(unbroken(**settings, tasks=TASKS[:2]).run, run)
    file = write(tmp_path / "task.yaml", TASKS[2])
    done = stockpot("add", run, file, root=run, fault={"do": "term", "kind": "evaluate", "at": 1})
    assert done.code == 143
    assert journal(run)[-1]["event"] == "added"
    assert stockpot("resume", run, root=run).code == 0
    same(run, unbroken(**settings).run)


def test_a_resumed_run_that_is_finished_is_only_read(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    copytree(unbroken(loop="plain").run, run)
    before = tree(run)
    done = stockpot("resume", run, root=run)
    assert done.code == 0
    assert "Every task is learnt already" in done.out
    assert tree(run) == before
