"""One folder, one process: what a launcher started several times is refused before there is a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.api import launchers
from stockpot.api.launchers import refuse_launchers
from stockpot.cli.app import app
from stockpot.errors import StockpotError

READING = {"methods", "rules", "schema", "init", "inspect"}  # they print, or write one file that must not be there
COMMANDS = {str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands}
TWO = {"WORLD_SIZE": "2", "RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "torchrun or accelerate launch started 2 processes"),
        ({"LOCAL_WORLD_SIZE": "3"}, "torchrun or accelerate launch started 3 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, "mpirun started 4 processes"),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "mpirun started 2 processes"),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0"}, "srun started 8 processes"),
    ],
)
def test_several_processes_are_refused_by_their_launcher(environment: dict[str, str], launcher: str) -> None:
    with pytest.raises(StockpotError, match=launcher):
        refuse_launchers(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "16", "SLURM_PROCID": "0"},  # a batch script, which runs once
        {"WORLD_SIZE": "many"},
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_FSDP": "false"},
    ],
)
def test_one_process_is_not(environment: dict[str, str]) -> None:
    refuse_launchers(environment)


def test_tasks_of_slurm_may_each_have_a_share_of_a_comparison() -> None:
    refuse_launchers({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, shares=True)
    with pytest.raises(StockpotError):
        refuse_launchers(TWO, shares=True)


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launchers, "_PATIENCE", 0)
    with pytest.raises(SystemExit) as ended:
        refuse_launchers({**TWO, "RANK": "1"})
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "value"), [("ACCELERATE_USE_FSDP", "true"), ("ACCELERATE_MIXED_PRECISION", "fp16")])
def test_settings_that_a_launcher_would_slip_in_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(StockpotError, match=f"{name} is '{value}' in the environment: .*; unset it"):
        refuse_launchers({name: value})


@pytest.mark.parametrize("command", sorted(COMMANDS - READING))
def test_every_command_that_writes_a_folder_refuses_two_processes(
    command: str, stockpot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    done = stockpot(command, "a", *(["b"] if command in ("add", "push") else []))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: torchrun or accelerate launch started 2 processes of this command")
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_two_processes_of_torchrun_leave_no_folder(tmp_path: Path) -> None:
    torchrun = Path(sys.executable).with_name("torchrun")
    if not torchrun.exists():
        pytest.skip("torchrun is not installed beside Python")
    command = [
        str(torchrun),
        "--nproc-per-node",
        "2",
        "-m",
        "stockpot",
        "run",
        "recipe.yaml",
        "-o",
        str(tmp_path / "r"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stderr.count("Error: torchrun or accelerate launch started 2 processes of this command") == 1
    assert "stockpot/cli" not in done.stderr  # no traceback of ours
    assert not (tmp_path / "r").exists()
