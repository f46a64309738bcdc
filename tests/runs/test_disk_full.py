"""A disk that fills up, at any write: one line says so, nothing is lost, and the run continues once there is space."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from running import TASKS, Stockpot, Unbroken, journal, same, settled, tree, write
from tiers import crossed, sample

Make = Callable[..., Unbroken]
PLAIN: dict[str, Any] = {"loop": "plain", "boundary": "keep-optimizer", "method": {"name": "replay"}}
NEEDS_SPACE = ("append", "sync", "tensors", "pickle", "text", "open", "mkdir", "rename", "replace")


def goes_on(stockpot: Stockpot, whole: Unbroken, run: Path) -> None:
    """After a full disk: the journal is whole, no half-written file is left, and the run goes on where it stood."""
    if not (run / "journal.jsonl").is_file() or not (run / "journal.jsonl").stat().st_size:
        done = stockpot("run", whole.file, "-o", run, root=run)
    else:
        assert journal(run)
        assert not list(run.rglob(".tmp-*"))
        done = stockpot("resume", run, root=run)
    assert done.code == 0, done.err
    same(run, whole.run)
    settled(run)


@pytest.mark.parametrize(
    ("instant", "lasting"), sample([(at, lasting) for at in range(16) for lasting in (False, True)])
)
def test_any_write_may_meet_a_full_disk(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, instant: int, lasting: bool
) -> None:
    whole, run = unbroken(**PLAIN, tasks=TASKS[:2]), tmp_path / "run"
    writes = [number for number, (kind, _) in enumerate(whole.events, 1) if kind in NEEDS_SPACE]
    at = writes[instant * (len(writes) - 1) // 15]
    done = stockpot("run", whole.file, "-o", run, root=run, fault={"do": "full", "at": at, "lasting": lasting})
    assert done.code == 2, whole.events[at - 1]
    assert "the disk is full" in done.error
    assert str(run) in done.error
    goes_on(stockpot, whole, run)


@pytest.mark.parametrize("kind", sample(["tensors", "pickle", "open", "text", "sync", "rename"]))
def test_a_checkpoint_of_the_trainer_may_meet_a_full_disk(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, kind: str
) -> None:
    whole, run = unbroken(), tmp_path / "run"
    fault = {"do": "full", "kind": kind, "path": "checkpoints/02-second", "at": 2}
    done = stockpot("run", whole.file, "-o", run, root=run, fault=fault)
    assert done.code == 2, done.err
    assert "the disk is full" in done.error
    goes_on(stockpot, whole, run)


@pytest.mark.parametrize("at", [2, pytest.param(8, marks=pytest.mark.thorough), 40])
def test_a_branch_may_meet_a_full_disk(stockpot: Stockpot, unbroken: Make, tmp_path: Path, at: int) -> None:
    run = tmp_path / "run"
    copytree(unbroken(**PLAIN, head="seen", tasks=TASKS[:2]).run, run)
    before, file = tree(run), write(tmp_path / "task.yaml", TASKS[2])
    command = ("add", run, file, "-o", tmp_path / "branch")
    done = stockpot(*command, root=tmp_path, fault={"do": "full", "at": at})
    assert done.code == 2
    assert "the disk is full" in done.error
    if not (tmp_path / "branch").exists():
        assert stockpot(*command, root=tmp_path).code == 0
    else:
        assert stockpot("resume", tmp_path / "branch", root=tmp_path).code == 0
    same(tmp_path / "branch", unbroken(**PLAIN, head="seen").run)
    assert tree(run) == before


@pytest.mark.parametrize(
    ("kind", "code"),
    crossed(["append", "replace", "sync", "mkdir"], [errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT]),
)
def test_other_refusals_are_one_line_too(
    stockpot: Stockpot, unbroken: Make, tmp_path: Path, kind: str, code: int
) -> None:
    whole, run = unbroken(**PLAIN, tasks=TASKS[:2]), tmp_path / "run"
    fault = {"do": "fail", "errno": code, "kind": kind, "at": 2}
    done = stockpot("run", whole.file, "-o", run, root=run, fault=fault)
    assert done.code == 2
    assert str(run) in done.error
    goes_on(stockpot, whole, run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB; the test is skipped where this user may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("left", "loop"), crossed([8, 40, 80, 120], ["trainer", "plain"]))
def test_a_disk_that_is_really_full(stockpot: Stockpot, unbroken: Make, small_disk: Path, left: int, loop: str) -> None:
    whole, run = unbroken(loop=loop, boundary="keep-optimizer", tasks=TASKS[:2]), small_disk / "run"
    filler = small_disk / "filler"
    filler.write_bytes(bytes((512 - left) * 1024))
    done = stockpot("run", whole.file, "-o", run, root=run)
    assert done.code == 2, done.err
    assert "the disk is full" in done.error
    filler.unlink()
    goes_on(stockpot, whole, run)
