"""`stockpot compare`: what its options mean, and one line for each that makes no sense."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.cli.compare_options import CompareOptions, apply_options
from stockpot.comparisons.cells import CellPlan
from stockpot.comparisons.running import CellRunner
from stockpot.errors import StockpotError
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe

Command = Callable[..., Any]


@pytest.fixture
def recipe(digits_recipe: dict[str, Any]) -> Recipe:
    compare = [{"name": "sfa", "beta": 0.4}, {"label": "half", "name": "wise_ft"}]
    return validate(Recipe, {**digits_recipe, "compare": compare, "seeds": [3, 1]}, "here")


def test_methods_are_the_recipes_by_label_and_others_by_name(recipe: Recipe) -> None:
    found = apply_options(recipe, CompareOptions(methods="half, ewc,sfa")).compare
    assert [(method.title, method.name) for method in found] == [("half", "wise_ft"), ("ewc", "ewc"), ("sfa", "sfa")]
    assert found[2].beta == 0.4  # type: ignore[attr-defined]
    assert "strength" in found[1].searched()
    assert "beta" not in found[2].searched()  # the recipe sets it


def test_seeds_are_the_recipes_first_and_then_others(recipe: Recipe) -> None:
    assert apply_options(recipe, CompareOptions(seeds=1)).seeds == [3]
    assert apply_options(recipe, CompareOptions(seeds=4)).seeds == [3, 1, 0, 2]


def test_the_other_options_are_keys_of_the_recipe(recipe: Recipe) -> None:
    found = apply_options(recipe, CompareOptions(orders=2, tune=7, search="random", minutes="90s", front=5))
    assert (found.orders, found.front) == (2, 5)
    assert found.tune is not None
    assert (found.tune.trials, found.tune.search, found.tune.minutes) == (7, "random", 1.5)
    assert apply_options(recipe, CompareOptions()) == recipe
    assert set(apply_options(recipe, CompareOptions(tune=3)).compare[1].searched()) == {"alpha"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CompareOptions(methods="sfa,ewk"), r"--methods: there is no 'ewk'\. Did you mean 'ewc'\?"),
        (CompareOptions(search="random"), r"--search is for tuning: give --tune TRIALS too"),
        (CompareOptions(minutes="1h"), r"--budget is for tuning"),
        (CompareOptions(tune=2, minutes="soon"), r"--budget: 'soon' is not a time; write 90s, 30m or 2h"),
        (CompareOptions(tune=2, search="gird"), r"tune\.search: .*'grid'"),
    ],
)
def test_what_makes_no_sense_is_one_line(options: CompareOptions, message: str, recipe: Recipe) -> None:
    with pytest.raises(StockpotError, match=message):
        apply_options(recipe, options)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--shard", "5/4"), "--shard: '5/4' is not a share"),
        (("--engine", "slurm"), "--engine: 'slurm' is not processes or ray"),
        (("--orders", "3"), "2 tasks have 2 orders, not 3"),
        (("--tune", "2", "--search", "optuna", "--shard", "1/2"), "cannot be sharded"),
    ],
)
def test_mistakes_on_the_command_line_have_exit_code_2(
    flags: tuple[str, ...],
    message: str,
    stockpot: Command,
    write_yaml: Callable[..., Path],
    digits_recipe: dict[str, Any],
    tmp_path: Path,
) -> None:
    done = stockpot("compare", write_yaml(digits_recipe), *flags, "-o", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_stopped_comparison_shows_what_is_finished(
    stockpot: Command,
    write_yaml: Callable[..., Path],
    digits_recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The signal comes when the first method is done."""
    start = CellRunner._start

    def stop(self: CellRunner, cell: CellPlan) -> Any:
        if cell.method.name == "wise_ft":
            os.kill(os.getpid(), signal.SIGTERM)
        return start(self, cell)

    monkeypatch.setattr(CellRunner, "_start", stop)
    file = write_yaml({**digits_recipe, "loop": "plain"})
    done = stockpot("compare", file, "--methods", "sequential,wise_ft", "-o", tmp_path / "out")
    assert done.code == 128 + signal.SIGTERM
    assert "So far 1 of 3 reported runs are finished." in done.out
    assert "sequential" in done.out and "wise_ft" not in done.out.split("Stopped after")[0]
    assert "Go on with: stockpot compare" in done.out
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_one_command_tunes_runs_orders_and_draws_the_front(
    stockpot: Command,
    write_yaml: Callable[..., Path],
    digits_recipe: dict[str, Any],
    tmp_path: Path,
) -> None:
    file = write_yaml({**digits_recipe, "loop": "plain"})
    flags = ("--methods", "wise_ft", "--seeds", "2", "--orders", "2", "--tune", "2", "--pareto", "2")
    done = stockpot("compare", file, *flags, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "2 seeds × 2 orders" in done.out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {label: len(summary["cells"]) for label, summary in found["methods"].items()} == {
        "sequential": 4, "wise_ft": 4, "joint": 4,
    }  # fmt: skip
    assert len(found["tuning"]["methods"]["wise_ft"]) == 2 + found["tuning"]["further_trials"]
    assert [point["method"] for point in found["front"]] == ["wise_ft"] * 2
    assert [len(point["cells"]) for point in found["front"]] == [4, 4]  # every seed and order, as the reported runs
    assert [point["past_accuracy"]["n"] for point in found["front"]] == [2, 2]
    chosen = found["tuning"]["chosen"]["wise_ft"]["alpha"]
    assert found["methods"]["wise_ft"]["method"]["alpha"] == chosen
    assert "front" in (tmp_path / "out" / "report.html").read_text()


def test_a_shard_that_is_done_says_so_and_is_no_mistake(
    digits_recipe: dict[str, Any], stockpot: Command, tmp_path: Path, write_yaml: Callable[..., Path]
) -> None:
    digits_recipe["train"] |= {"max_steps": 1}
    path = write_yaml({**digits_recipe, "method": {"name": "sfa", "p": 0.5}})
    for _ in range(2):  # the second time there is nothing left to run
        done = stockpot("compare", path, "--shard", "1/3", "-o", tmp_path / "cells")
        assert done.code == 0
        assert done.out.startswith("Shard 1/3 is done: 1 of 3 cells of this stage are finished.")
        assert done.out.count("\n") == 1
        assert "Error" not in done.err
