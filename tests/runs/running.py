"""Runs as a user makes them: one forked process for each command, in which nothing has run before."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import warm
import yaml
from pristine import Pristine
from safetensors.torch import load_file

VIT = {"config": {
    "model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}}  # fmt: skip
MLP = {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [16]}}
TRAIN = {
    "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "lr_scheduler_type": "cosine",
    "warmup_steps": 2, "save_steps": 3, "use_cpu": True,
}  # fmt: skip


def task(name: str, *classes: int, **train: Any) -> dict[str, Any]:
    """One entry of `tasks`."""
    return {"name": name, "data": {"classes": list(classes)}, "train": train}


TASKS = [task("first", 0, 1), task("second", 2, 3), task("third", 4, 5)]


def recipe(**changes: Any) -> dict[str, Any]:
    """Three tasks of two digits and eight steps each, learnt with SFA where nothing else is said: in the Trainer by a
    tiny ViT with dropout, in the plain loop by an MLP, which takes half the time."""
    base = {
        "model": MLP if changes.get("loop") == "plain" else VIT,
        "data": {"path": "digits", "limit": 8},
        "tasks": TASKS,
        "method": {"name": "sfa", "beta": 0.25, "p": 0.25},
        "train": TRAIN,
    }
    return {**base, **changes}


def one_line(stderr: str) -> str:
    """The one error that a command printed, which is not a traceback."""
    lines = [line for line in stderr.splitlines() if line.startswith("Error:")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr, stderr
    return lines[0]


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative for a signal), what it printed, and the events that it counted."""

    code: int | None
    out: str
    err: str
    events: list[tuple[str, str]]

    @property
    def error(self) -> str:
        """The one line that says what was wrong."""
        return one_line(self.err)


class Stockpot:
    """The command `stockpot`, in a fresh child of a warm process each time. `root` is where events are counted."""

    def __init__(self, folder: Path, pristine: Pristine) -> None:
        self.folder = folder
        self.number = 0
        self.connection = pristine.start(partial(warm.serve, cache=folder / "cache"))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.connection.send(request)
        answer: dict[str, Any] = self.connection.recv()
        return answer

    def start(self, *arguments: object, root: Path, **request: Any) -> Child:
        """Starts a command and leaves it running. `request` may hold `fault`, `report` and `path`: see `warm.py`."""
        self.number += 1
        output = str(self.folder / str(self.number))
        words = [str(argument) for argument in arguments]
        request |= {"arguments": words, "root": str(root), "output": output}
        return Child(self, self._ask({"start": request})["pid"], Path(output))

    def __call__(self, *arguments: object, root: Path, **request: Any) -> Done:
        """Runs a command to its end."""
        return self.start(*arguments, root=root, **request).wait()


@dataclass
class Child:
    """A command that runs."""

    stockpot: Stockpot
    pid: int
    output: Path

    def wait(self) -> Done:
        """How it ended; the code is None if it has stopped itself and waits."""
        code = self.stockpot._ask({"wait": self.pid})["code"]
        events = Path(f"{self.output}.events")
        return Done(
            code,
            Path(f"{self.output}.out").read_text(encoding="utf-8"),
            Path(f"{self.output}.err").read_text(encoding="utf-8"),
            [tuple(event) for event in json.loads(events.read_text(encoding="utf-8"))] if events.is_file() else [],
        )

    def kill(self) -> Done:
        """SIGKILL, and the end of it."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()


@dataclass(frozen=True)
class Unbroken:
    """A recipe's file, the run that it gave, and the events on the way."""

    file: Path
    run: Path
    events: list[tuple[str, str]]


def write(path: Path, values: object) -> Path:
    """A YAML file."""
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def results(run: Path) -> dict[str, Any]:
    """results.json."""
    values: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return values


def journal(run: Path) -> list[dict[str, Any]]:
    """The events of a journal; its last line is whole."""
    text = (run / "journal.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def tree(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of the file there, or what else it is."""
    return {
        path.relative_to(folder).as_posix(): "link"
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def models(run: Path) -> list[str]:
    """The tasks of which the models exist."""
    return sorted(folder.parent.name for folder in (run / "tasks").glob("*/model"))


def same(run: Path, other: Path) -> None:
    """Asserts that two runs have bit for bit the same weights, and the same scores, metrics, steps and averages."""
    assert models(run) == models(other)
    for place in models(other):
        (name,) = (path.name for path in (other / "tasks" / place / "model").glob("*.safetensors"))
        file = f"tasks/{place}/model/{name}"
        if (run / file).read_bytes() != (other / file).read_bytes():
            mine, theirs = load_file(run / file), load_file(other / file)
            assert mine.keys() == theirs.keys()
            differing = [name for name in theirs if not mine[name].equal(theirs[name])]
            raise AssertionError(f"{place}: differs in {differing or 'its header'}")
    mine, theirs = results(run), results(other)
    for key in ("scores", "metrics", "tasks", "head", "notes", "data", "recipe", "primary"):
        assert mine[key] == theirs[key], key
    counted = ("steps", "averages", "stored_bytes", "stored_data_bytes", "extra_memory_bytes")
    for here, there in zip(mine["task_costs"], theirs["task_costs"], strict=True):
        assert {key: here[key] for key in counted} == {key: there[key] for key in counted}


def settled(run: Path) -> None:
    """Asserts that an interruption left nothing behind: no temporaries, checkpoints or old states."""
    assert not list(run.rglob(".tmp-*"))
    assert not (run / "checkpoints").exists()
    assert len(list((run / "state").iterdir())) == 1
