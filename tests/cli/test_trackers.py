"""What trackers write while a run trains is kept, in one folder of the run."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

STOP_AT = 2  # of the first task: the user stops the run here, and it ends after the step in which it notices


class Writer:
    """TensorBoard's writer, as far as the Trainer uses it: a new file each time."""

    stopped = False

    def __init__(self, log_dir: str) -> None:
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"events.{len(list(folder.iterdir()))}"
        self.file.touch()

    def add_text(self, *_: Any) -> None: ...

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """One line; and the user stops the run, once."""
        if name == "train/loss":
            with self.file.open("a") as file:
                file.write(f"{step}\n")
            if step == STOP_AT and not Writer.stopped:
                Writer.stopped = True
                os.kill(os.getpid(), signal.SIGTERM)

    def flush(self) -> None: ...
    def close(self) -> None: ...


class Emissions(TrainerCallback):
    """A tracker that knows the Trainer's output folder alone."""

    def on_step_end(self, args: Any, *_: Any, **__: Any) -> None:
        with (Path(args.output_dir) / "emissions.csv").open("a") as file:
            file.write("x\n")


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = ModuleType("torch.utils.tensorboard")
    stub.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    monkeypatch.setattr(integration_utils, "is_codecarbon_available", lambda: True)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "codecarbon", Emissions)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setattr(Writer, "stopped", False)


def test_what_they_write_is_kept_over_an_interruption_and_with_keep_needed(
    trackers: None,
    stockpot: Callable[..., Any],
    digits_recipe: dict[str, Any],
    write_yaml: Callable[..., Path],
    tmp_path: Path,
) -> None:
    digits_recipe["keep"] = "needed"
    digits_recipe["train"] |= {
        "max_steps": 4, "save_steps": 1, "logging_steps": 1, "report_to": ["tensorboard", "codecarbon"],
    }  # fmt: skip
    run = tmp_path / "run"
    assert stockpot("run", write_yaml(digits_recipe), "-o", run).code == 128 + signal.SIGTERM
    assert stockpot("resume", run).code == 0
    assert not (run / "checkpoints").exists()
    kept = {
        str(path.relative_to(run / "logs")): path.read_text().split()
        for path in (run / "logs").rglob("*")
        if path.is_file()
    }
    first, second = sorted(path.name for path in (run / "logs").iterdir())
    assert kept == {
        f"{first}/events.0": ["1", "2", "3"],
        f"{first}/events.1": ["4"],
        f"{first}/emissions.csv": ["x"] * 4,
        f"{second}/events.0": ["1", "2", "3", "4"],
        f"{second}/emissions.csv": ["x"] * 4,
    }


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ("tensorboard", r"train\.report_to: tensorboard is not installed here: install it, or leave it out\."),
        ("tensorbord", r"train\.report_to: unknown tracker 'tensorbord'\. Did you mean 'tensorboard'\?"),
    ],
)
def test_a_tracker_that_is_not_there_is_one_line_before_the_run_begins(
    tracker: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    stockpot: Callable[..., Any],
    digits_recipe: dict[str, Any],
    write_yaml: Callable[..., Path],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: False)
    digits_recipe["train"]["report_to"] = tracker
    done = stockpot("run", write_yaml(digits_recipe), "-o", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert re.search(message, done.err), done.err
    assert not (tmp_path / "run").exists()
