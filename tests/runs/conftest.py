"""The command `stockpot`, and runs that nothing interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running import Stockpot, Unbroken, recipe, write


@pytest.fixture(scope="session")
def stockpot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stockpot]:
    """The command line."""
    command = Stockpot(tmp_path_factory.mktemp("output"))
    yield command
    assert command.process.stdin is not None
    command.process.stdin.close()
    command.process.wait()


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
