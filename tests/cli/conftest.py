"""The command line, called as a user calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from stockpot.cli import main
from stockpot.cli.app import app


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: Any
    out: str
    err: str


@pytest.fixture
def stockpot(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`stockpot("run", path, "method.beta=0.5")` in this process; an error that is not the user's is raised."""

    def call(*arguments: Any) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Done(ended.value.code or 0, out, err)

    return call


@pytest.fixture(autouse=True)
def _pictures(request: pytest.FixtureRequest) -> None:
    """What the figures of a report look like is tested in tests/report."""
    if request.module.__name__ != "test_inspect":
        request.getfixturevalue("quick_pictures")


@pytest.fixture(scope="session", autouse=True)
def _options() -> Iterator[None]:
    """Typer reads the options of every command from annotations at every call: here, once."""
    command = typer.main.get_command(app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", lambda _: command)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in `run`, and its recipe; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = {
        "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [8]}},
        "data": {"path": "digits", "limit": 4},
        "tasks": {"split": 5},
        "train": {"max_steps": 2, "per_device_train_batch_size": 8, "use_cpu": True},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder / "recipe.yaml"), "-o", str(folder / "run")])
    assert not ended.value.code
    return folder
