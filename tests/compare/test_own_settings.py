"""`train:` of a method in `compare`: it trains by it, the results have it, and the report says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stockpot.comparisons.cells import contenders, plan
from stockpot.comparisons.running import CellRunner
from stockpot.comparisons.summary import summarise_comparison
from stockpot.errors import StockpotError
from stockpot.recipe.read import read_recipe, validate
from stockpot.recipe.schema import Recipe
from stockpot.runs.progress import Progress
from stockpot.training.job import Stop


def test_a_method_trains_by_its_own_settings(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    train = {"num_train_epochs": 1, "learning_rate": 1e-3}
    tasks = [{"name": "a", "data": {"classes": [0, 1]}},
             {"name": "b", "data": {"classes": [2, 3]}, "train": {"num_train_epochs": 3}}]  # fmt: skip
    changes = {"loop": "plain", "tasks": tasks, "compare": [{"name": "wise_ft", "train": train}]}
    recipe = validate(Recipe, {**digits_recipe, **changes}, "here")
    done = CellRunner(recipe, tmp_path, Stop(), Progress()).run(plan(recipe, contenders(recipe)[:2]))
    by_label = {cell.method.title: results for cell, results in done}
    plain, own = by_label["sequential"], by_label["wise_ft"]
    assert plain is not None and own is not None
    assert [cost.steps for cost in plain.task_costs] == [4, 6]  # 12 examples in batches of 8, two and three epochs
    assert [cost.steps for cost in own.task_costs] == [2, 6]  # a task's settings come before a method's
    assert own.method["train"] == train and "train" not in plain.method
    assert own.recipe["train"] == {**digits_recipe["train"], **train}
    comparison = summarise_comparison(recipe, [(cell, results) for cell, results in done if results is not None])
    said = "Trained with settings of its own: WiSE-FT (num_train_epochs 1, learning_rate 0.001)."
    assert said in comparison.sentences


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compare": [{"name": "sfa"}, {"name": "ewc", "train": {"lerning_rate": 1}}]},
         r"compare\.1\.train\.lerning_rate: unknown key\. Did you mean 'learning_rate'"),
        ({"method": {"name": "ewc", "train": {"seed": 1}}}, r"method\.train\.seed: not for a recipe"),
    ],
)  # fmt: skip
def test_settings_are_checked_as_those_of_the_recipe(
    change: dict[str, Any], message: str, digits_recipe: dict[str, Any], write_yaml: Any
) -> None:
    with pytest.raises(StockpotError, match=message):
        read_recipe(write_yaml({**digits_recipe, **change}))
