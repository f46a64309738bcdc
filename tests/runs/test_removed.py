"""A run folder that is removed or moved while a run works in it is noticed, and nothing is left in its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.comparisons.cells import plan
from stockpot.comparisons.running import CellRunner
from stockpot.errors import StockpotError
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.runs.actions import continue_run, create_run
from stockpot.runs.progress import Progress
from stockpot.training.job import Stop


class Taking(Progress):
    """Takes the folder away at one moment of the second task."""

    def __init__(self, take: Callable[[], Any], moment: str) -> None:
        self.take, self.moment, self.number = take, moment, 0

    def _at(self, moment: str) -> None:
        if moment == self.moment:
            self.moment = ""
            self.take()

    def task(self, number: int, count: int, name: str) -> None:
        self.number = number
        self._at(f"task {number}")

    def step(self, step: int, total: int) -> None:
        self._at(f"task {self.number} step {step} of {total}")

    def evaluated(self, scores: dict[str, float]) -> None:
        self._at(f"evaluated {self.number}")

    def cell(self, name: str, score: float | None) -> None:
        self._at("cell")


def recipe_of(values: dict[str, Any], loop: str = "plain") -> Recipe:
    train = {"max_steps": 3, "save_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True}
    return validate(Recipe, {**values, "tasks": {"split": 4}, "train": train, "loop": loop}, "here")


@pytest.mark.parametrize("moment", ["evaluated 1", "task 2", "task 2 step 1 of 3", "task 2 step 3 of 3"])
@pytest.mark.parametrize(("loop", "moved"), [("plain", True), ("trainer", False)])
def test_it_is_noticed_before_anything_is_written_there(
    loop: str, moment: str, moved: bool, digits_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe, run = recipe_of(digits_recipe, loop), tmp_path / "runs" / "one"
    create_run(recipe, recipe.method, 0, run)

    def take() -> None:
        if moved:
            run.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(run)

    with pytest.raises(StockpotError, match=r"runs/one: the run folder was removed, moved or replaced while"):
        continue_run(run, progress=Taking(take, moment))
    assert not list((tmp_path / "runs").iterdir())
    if moved:
        assert len(continue_run(tmp_path / "elsewhere").tasks) == 3


def test_a_folder_in_its_place_is_left_alone(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe, run = recipe_of(digits_recipe), tmp_path / "run"
    create_run(recipe, recipe.method, 0, run)

    def replace() -> None:
        run.rename(tmp_path / "elsewhere")
        run.mkdir()
        (run / "journal.jsonl").write_text("mine")

    with pytest.raises(StockpotError, match="removed, moved or replaced"):
        continue_run(run, progress=Taking(replace, "evaluated 1"))
    assert [(file.name, file.read_text()) for file in run.iterdir()] == [("journal.jsonl", "mine")]


def test_a_comparison_whose_folder_is_removed_makes_no_new_one(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe, folder = recipe_of(digits_recipe), tmp_path / "comparison"
    work = CellRunner(recipe, folder, Stop(), Taking(lambda: shutil.rmtree(folder), "cell"))
    with pytest.raises(StockpotError, match="the comparison's folder was removed or moved"):
        work.run(plan(recipe))
    assert not folder.exists()
