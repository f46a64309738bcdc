"""A scenario that the user brings: which classes share a row, which rows may be answered, which compete."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brought
import pytest
import torch

import stockpot
from stockpot.api.run_result import RunResult
from stockpot.errors import StockpotError
from stockpot.streams.scenario import Rows

CODE = '''
from stockpot.streams.scenario import Rows, TaskIncremental


class Parity(Rows):
    """Odd and even digits: two rows, which all tasks share."""

    @staticmethod
    def row_keys(task, classes):
        return ["even" if int(name) % 2 == 0 else "odd" for name in classes]


class SameAsTasks(TaskIncremental):
    """Like the scenario of that name."""


class Digits:
    pass
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "their_scenarios.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    with brought.forgotten("their_scenarios"):
        yield tmp_path


def weights(run: RunResult) -> bytes:
    return (run.model_folder() / "model.safetensors").read_bytes()


def test_classes_share_rows_and_the_run_can_be_read_without_the_code(folder: Path, recipe: dict[str, Any]) -> None:
    from their_scenarios import Parity  # type: ignore[import-not-found]

    run = stockpot.run({**recipe, "scenario": Parity}, output=folder / "run", progress=False)
    assert run.results.scenario == "their_scenarios:Parity"
    assert run.results.head == {
        "part-1": ["even", "odd", "even", "odd", "even"],
        "part-2": ["odd", "even"] * 2 + ["odd"],
    }
    assert [tensor.shape[0] for tensor in run.model().state_dict().values()][-1] == 2
    with brought.forgotten("their_scenarios"):
        assert stockpot.open(run.path).results == run.results
        with pytest.raises(StockpotError, match="names the code at 'their_scenarios:Parity'; read it"):
            stockpot.add(run.path, {"name": "next", "data": {"classes": [3, 4]}}, progress=False)
        assert "their_scenarios" not in sys.modules
    task = {"name": "next", "data": {"classes": [3, 4]}}
    longer = stockpot.add(run.path, task, allow_code=True, progress=False)
    with brought.forgotten("their_scenarios"):
        assert stockpot.open(run.path).results.head["next"] == ["odd", "even"] == longer.results.head["next"]


def test_what_it_inherits_it_keeps_and_a_package_registers_it(folder: Path, recipe: dict[str, Any]) -> None:
    plain = {key: value for key, value in recipe.items() if key != "controls"} | {"metrics": ["accuracy"]}
    brought.install(folder, "[stockpot.scenarios]\nby-task = their_scenarios:SameAsTasks\n")
    theirs = stockpot.run({**plain, "scenario": "by-task"}, output=folder / "theirs", progress=False)
    ours = stockpot.run({**plain, "scenario": "task-incremental"}, output=folder / "ours", progress=False)
    assert weights(theirs) == weights(ours)
    assert theirs.matrix(start=True).equals(ours.matrix(start=True))
    assert theirs.results.head == ours.results.head
    for scenario, message in (
        ("by-taks", "scenario: should be 'class-incremental'"),
        ("their_scenarios:Digits", "scenario: their_scenarios:Digits: this is not a scenario: define a class derived"),
        ("their_scenarios:Party", r"their_scenarios has no 'Party'\. Did you mean 'Parity'\?"),
    ):
        with pytest.raises(StockpotError, match=message):
            stockpot.run({**plain, "scenario": scenario}, output=folder / "other", progress=False)


def test_groups_and_answerable_rows_are_masks() -> None:
    class Halves(Rows):
        def answerable(self, task: int, learnt: int) -> set[int]:
            return {0, 1} if task == 0 else {2, 3, 9}

        def groups(self) -> list[set[int]]:
            return [{1, 3}, {0, 2, 9}]

    rows = Halves("theirs", ((0, 1), (2, 3)), ("a", "b", "c", "d"))
    assert rows.evaluated(0, 2, 4).tolist() == [True, True, False, False]
    assert rows.evaluated(1, 0, 3).tolist() == [False, False, True]
    owners = rows.owners(4)
    assert owners is not None and torch.equal(owners, torch.tensor([1, 0, 1, 0]))
    plain = Rows("theirs", rows.tasks, rows.names)
    assert plain.owners(4) is None and plain.evaluated(0, 1, 4).all()
