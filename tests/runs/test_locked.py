"""Two processes never work on one run at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
from running import TASKS, TRAIN, Stockpot, Unbroken, journal, recipe, same, task, tree, write

from stockpot.errors import StockpotError
from stockpot.runs.journal import Journal

Make = Callable[..., Unbroken]


@pytest.mark.parametrize("loop", ["plain", pytest.param("trainer", marks=pytest.mark.thorough)])
def test_a_second_process_is_refused_until_the_first_is_dead(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, loop: str
) -> None:
    whole, run = unbroken(loop=loop), tmp_path / "run"
    first = stockpot.start("run", whole.file, "-o", run, root=run, fault={"do": "stop", "kind": "step", "at": 12})
    assert first.wait().code is None  # it stands still, in its second task
    before = tree(run)
    task_file = write(tmp_path / "task.yaml", task("fourth", 6, 7))
    taken, busy = "there is already a run here", "another process is working on this run"
    for command, why in (
        (["resume", run], busy),
        (["run", whole.file, "-o", run], taken),
        (["add", run, task_file], busy),
    ):
        done = stockpot(*command, root=run)
        assert done.code == 2
        assert f"{run}: {why}" in done.error
    assert tree(run) == before
    assert first.kill().code == -9
    assert stockpot("resume", run, root=run).code == 0
    same(run, whole.run)


def test_a_run_that_grows_is_not_branched(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    run, file = tmp_path / "run", write(tmp_path / "task.yaml", TASKS[2])
    copytree(unbroken(loop="plain", tasks=TASKS[:2]).run, run)
    first = stockpot.start("add", run, file, root=run, fault={"do": "stop", "kind": "evaluate", "at": 1})
    assert first.wait().code is None
    done = stockpot("add", run, file, "-o", tmp_path / "branch", root=run)
    assert done.code == 2
    assert "another process is working on this run" in done.error
    assert not (tmp_path / "branch").exists()
    first.kill()
    assert stockpot("add", run, file, "-o", tmp_path / "branch", root=run).code == 0


def test_branches_are_made_side_by_side(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    run, file = tmp_path / "run", write(tmp_path / "task.yaml", TASKS[2])
    copytree(unbroken(loop="plain", tasks=TASKS[:2]).run, run)
    first = stockpot.start(
        "add", run, file, "-o", tmp_path / "one", root=tmp_path, fault={"do": "stop", "kind": "sync", "at": 3}
    )
    assert first.wait().code is None  # it copies
    assert stockpot("add", run, file, "-o", tmp_path / "two", root=tmp_path).code == 0
    done = stockpot("resume", run, root=run)
    assert done.code == 2  # nobody may change it meanwhile
    first.kill()


def test_workers_do_not_hold_the_lock(stockpot: Stockpot, unbroken: Make, tmp_path: Path) -> None:
    train = {**TRAIN, "dataloader_num_workers": 1}
    whole, run = unbroken(tasks=TASKS[:1], method={"name": "replay"}, train=train), tmp_path / "run"
    done = stockpot("run", whole.file, "-o", run, root=run, fault={"do": "kill", "kind": "step", "at": 6})
    assert done.code == -9
    done = stockpot("resume", run, root=run)  # at once: the worker has not noticed yet
    assert done.code == 0, done.err


def test_two_begin_at_once_and_one_wins(stockpot: Stockpot, tmp_path: Path) -> None:
    run, file = tmp_path / "run", write(tmp_path / "recipe.yaml", recipe(loop="plain"))
    first = stockpot.start("run", file, "-o", run, root=run, fault={"do": "stop", "kind": "append", "at": 1})
    assert first.wait().code is None
    done = stockpot("run", file, "-o", run, root=run)
    assert done.code == 2
    assert "another process is working on this run" in done.error
    first.kill()
    assert stockpot("run", file, "-o", run, root=run).code == 0
    assert [event["event"] for event in journal(run)].count("created") == 1


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    command = "import sys; from pathlib import Path; from stockpot.runs.journal import Journal; "
    command += "Journal(Path(sys.argv[1])).lock().append({'event': 'created'}); print('locked', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    mine = Journal(path)
    for shared in (False, True):
        with pytest.raises(StockpotError, match="another process is working on this run"):
            mine.lock(shared)
    other.kill()
    other.wait()
    mine.lock()
    assert mine.events == [{"event": "created"}]
    mine.close()


def test_readers_share_the_journal_and_a_writer_does_not(tmp_path: Path) -> None:
    journals = [Journal(tmp_path / "journal.jsonl") for _ in range(3)]
    journals[0].lock().append({"event": "created"})
    with pytest.raises(StockpotError):
        journals[1].lock(shared=True)
    journals[0].close()
    for reader in journals[:2]:
        reader.lock(shared=True)
    with pytest.raises(StockpotError):
        journals[2].lock()
    for reader in journals[:2]:
        reader.close()
    journals[2].lock().close()


def test_a_failed_write_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal_ = Journal(tmp_path / "journal.jsonl").lock()
    journal_.append({"event": "created"})
    before = journal_.path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:5]))
    with pytest.raises(StockpotError, match="the disk is full"):
        journal_.append({"event": "started"})
    monkeypatch.undo()
    assert journal_.path.read_bytes() == before
    journal_.append({"event": "task"})
    journal_.close()
    assert [event["event"] for event in Journal(journal_.path).events] == ["created", "task"]
    assert json.loads(journal_.path.read_text().splitlines()[0])["event"] == "created"
