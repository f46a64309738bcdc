"""The command `stockpot`, and runs that nothing interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pristine import Pristine
from running import Stockpot, Unbroken, one_line, recipe, write

from stockpot.cli import main


@pytest.fixture(scope="session")
def stockpot(tmp_path_factory: pytest.TempPathFactory, pristine: Pristine) -> Iterator[Stockpot]:
    """The command line."""
    command = Stockpot(tmp_path_factory.mktemp("output"), pristine)
    yield command
    command.connection.close()


@pytest.fixture(scope="session")
def unbroken(stockpot: Stockpot, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Unbroken]:
    """A run of a recipe that nothing interrupts, made once for each recipe."""
    made: dict[str, Unbroken] = {}

    def make(**changes: Any) -> Unbroken:
        values = recipe(**changes)
        key = json.dumps(values, sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("unbroken")
            file = write(folder / "recipe.yaml", values)
            done = stockpot("run", file, "-o", folder / "run", root=folder / "run")
            assert done.code == 0, done.err
            made[key] = Unbroken(file, folder / "run", done.events)
        return made[key]

    return make


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refuse("resume", run)` runs a command in this process, which must end with exit code 2: its one error line."""

    def command(*arguments: object) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        error = one_line(capfd.readouterr().err)
        assert ended.value.code == 2, error
        return error

    return command
