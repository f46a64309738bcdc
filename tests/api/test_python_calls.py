"""`stockpot.run` and its like: the same from a file, a dict or a Recipe, and they can be interrupted."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stockpot
from stockpot.api.comparison_result import ComparisonResult
from stockpot.api.recipe_changes import RecipeChanges
from stockpot.api.recipe_like import as_recipe, as_task
from stockpot.api.run_result import RunResult
from stockpot.api.stopping import Stopped
from stockpot.api.whatif_result import WhatIfResult
from stockpot.cli import main
from stockpot.errors import StockpotError
from stockpot.evaluation.consent import RUN_CODE, has_consent
from stockpot.runs import progress
from stockpot.streams.spec import TaskSpec

CALLS = ("run", "add", "resume", "compare", "whatif", "open", "push")


def weights(run: RunResult) -> bytes:
    return (run.model_folder() / "model.safetensors").read_bytes()


def test_a_dict_a_recipe_and_a_file_give_the_same_bits(
    finished: RunResult, recipe: dict[str, Any], write_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    from_file = stockpot.run(str(write_yaml(recipe)), output=tmp_path / "file", progress=False)
    from_recipe = stockpot.run(as_recipe(recipe), output=str(tmp_path / "recipe"), progress=False)
    assert weights(from_file) == weights(from_recipe) == weights(finished)
    assert from_file.results.scores == from_recipe.results.scores == finished.results.scores
    assert from_file.results.recipe == {**finished.results.recipe, "name": "recipe"}
    written = json.loads((tmp_path / "file" / "results.json").read_text())
    assert written == from_file.results.model_dump(mode="json")


def test_a_dict_may_hold_what_python_has_and_is_not_changed(recipe: dict[str, Any], tmp_path: Path) -> None:
    import numpy as np

    recipe["tasks"] = ({"name": "one-two", "data": {"classes": range(1, 3), "path": tmp_path}}, {"name": "rest"})
    recipe["seeds"] = np.arange(2)[1:]
    recipe["train"] = {**recipe["train"], "learning_rate": np.float64(0.5)}
    before = repr(recipe)
    checked = as_recipe(recipe, ["tasks.1.name=others"])
    assert isinstance(checked.tasks, list)
    assert [task.name for task in checked.tasks] == ["one-two", "others"]
    assert (checked.tasks[0].data.classes, checked.tasks[0].data.path) == ([1, 2], str(tmp_path))
    assert (checked.seeds, checked.train["learning_rate"]) == ([1], 0.5)
    assert repr(recipe) == before
    assert as_recipe(checked, ["seeds=[7]"]).seeds == [7]
    assert as_task(TaskSpec(name="later"), ["data.limit=3"]).data.limit == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda recipe: stockpot.run(recipe, "seeds=[1]"), r"overrides: give a list, \['seeds=\[1\]'\]"),
        (lambda recipe: stockpot.run(7), "int is not a recipe: give the path of a file, or a dict"),
        (lambda recipe: stockpot.run("absent.yaml"), "absent.yaml: there is no such file"),
        (lambda recipe: stockpot.run({**recipe, "metod": {}}), "the recipe: metod: unknown key. Did you mean 'method'"),
        (lambda recipe: stockpot.add("absent", {"nam": "x"}), "the task: "),
        (lambda recipe: stockpot.add("absent", {"name": "x"}), "absent: there is no such folder"),
        (lambda recipe: stockpot.resume("absent"), "absent: there is no such folder"),
        (lambda recipe: stockpot.open("absent"), "absent: there is no such folder"),
        (lambda recipe: stockpot.compare(recipe, methods="ewc,l2"), r"methods: give a list, \['ewc', 'l2'\]"),
        (lambda recipe: stockpot.compare(recipe, methods=["ewk"]), "methods: there is no 'ewk'. Did you mean 'ewc'"),
        (lambda recipe: stockpot.compare(recipe, search="grid"), "search is for tuning: give tune"),
        (lambda recipe: stockpot.compare(recipe, shard="3/2"), "shard: '3/2' is not a share"),
        (lambda recipe: stockpot.compare(recipe, engine="slurm"), "engine: 'slurm' is not processes or ray"),
        (lambda recipe: stockpot.whatif("absent", points=1), "points: 1 is not a number from 2 to 1001"),
        (lambda recipe: stockpot.whatif("absent", methods=["ewc"]), "'ewc' is unknown, or needs training"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_in_one_line(
    call: Callable[[dict[str, Any]], object], message: str, recipe: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StockpotError, match=message) as caught:
        call(recipe)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_task_is_added_in_place_or_in_a_branch(finished: RunResult, tmp_path: Path) -> None:
    task = {"name": "again", "data": {"classes": [0, 1]}}
    branch = stockpot.add(finished, task, ["data.limit=3"], output=tmp_path / "branch", progress=False)
    assert (branch.path, branch.results.tasks) == (tmp_path / "branch", ["part-1", "part-2", "again"])
    assert finished.results.tasks == ["part-1", "part-2"] == stockpot.open(finished.path).results.tasks
    with pytest.raises(StockpotError, match="already has a task of this name"):
        stockpot.add(branch, task, output=tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()
    longer = stockpot.add(branch.path, {**task, "name": "more"}, progress=False)
    assert (longer.path, longer.results.tasks[2:]) == (branch.path, ["again", "more"])


def test_an_interrupt_saves_and_resuming_gives_the_same_bits(
    finished: RunResult, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(self: progress.Progress, step: int, total: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "step", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            stockpot.run(recipe, output=tmp_path / "run", progress=False)
    assert isinstance(caught.value, Stopped)
    assert (caught.value.path, caught.value.number) == (tmp_path / "run", signal.SIGINT)
    assert f"Go on with stockpot.resume('{tmp_path / 'run'}')" in str(caught.value)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(StockpotError, match="no task is learnt yet"):
        stockpot.open(tmp_path / "run")
    resumed = stockpot.resume(tmp_path / "run", progress=False)
    assert weights(resumed) == weights(finished)
    assert resumed.results.scores == finished.results.scores


def test_another_thread_can_run_too(finished: RunResult, recipe: dict[str, Any], tmp_path: Path) -> None:
    """Only the main thread can catch signals."""
    runs: list[RunResult] = []
    thread = threading.Thread(target=lambda: runs.append(stockpot.run(recipe, output=tmp_path / "run", progress=False)))
    thread.start()
    thread.join()
    assert weights(runs[0]) == weights(finished)


def test_the_consent_to_run_code_ends_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from stockpot.api import single_run

    monkeypatch.delenv(RUN_CODE, raising=False)
    seen: list[bool] = []

    def look(path: Path) -> Any:
        seen.append(has_consent())
        raise StockpotError("enough")

    monkeypatch.setattr(single_run, "resumable", look)
    for consent in (True, False):
        with pytest.raises(StockpotError, match="enough"):
            stockpot.resume("run", run_code=consent)
    assert seen == [True, False]
    assert not has_consent()


def test_progress_is_said_unless_it_is_not_wanted(
    recipe: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stockpot.run(recipe, ["seeds=[0, 1]"], output=tmp_path / "loud")
    loud = capfd.readouterr()
    assert "task 2/2 part-2" in loud.err
    assert loud.out == ""
    stockpot.run(recipe, ["seeds=[0, 1]"], output=tmp_path / "silent", progress=False)
    assert capfd.readouterr() == ("", "")


def test_the_changes_of_a_comparison_are_those_of_the_recipe(recipe: dict[str, Any]) -> None:
    changes = RecipeChanges(["ewc", "l2"], seeds=2, orders=2, tune=3, search="random", minutes=1.5, front=4)
    changed = changes.applied(as_recipe(recipe))
    assert [method.title for method in changed.compare] == ["ewc", "l2"]
    assert (changed.seeds, changed.orders, changed.front) == ([0, 1], 2, 4)
    assert changed.tune is not None
    assert (changed.tune.trials, changed.tune.search, changed.tune.minutes) == (3, "random", 1.5)


def test_a_folder_is_read_as_it_was_written(
    finished: RunResult, compared: ComparisonResult, merged: WhatIfResult
) -> None:
    for made in (finished, compared, merged):
        read = stockpot.open(str(made.path))
        assert type(read) is type(made)
        assert read.results == made.results
        assert read.notes == made.notes
    numbers = json.loads((compared.path / "comparison.json").read_text())
    assert compared.results.model_dump(mode="json") == numbers
    assert merged.results.model_dump(mode="json") == json.loads((merged.path / "whatif.json").read_text())


def test_an_edited_file_is_noted_when_it_is_opened(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = stockpot.run(recipe, output=tmp_path / "run", progress=False)
    file = tmp_path / "run" / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seed": 9}))
    read = stockpot.open(tmp_path / "run")
    assert read.results == run.results
    assert "results.json does not agree with the run's journal" in read.notes[-1]


@pytest.mark.parametrize("name", CALLS)
def test_every_call_says_what_it_takes_returns_and_raises(name: str) -> None:
    call = getattr(stockpot, name)
    text = inspect.getdoc(call) or ""
    assert "\nReturns:\n" in text and "\nRaises:\n" in text
    section = text.split("\nArgs:\n")[1].split("\nReturns:\n")[0]
    assert [
        line.split(":")[0].strip() for line in section.splitlines() if line.startswith("    ") and line[4] != " "
    ] == list(inspect.signature(call).parameters)
    assert name in dir(stockpot)


def test_messages_name_arguments_in_python_and_flags_on_the_command_line(
    recipe: dict[str, Any], finished: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    for call, argument in (
        (lambda: stockpot.run(recipe, output=finished.path), "choose another folder with output="),
        (lambda: stockpot.compare(recipe, output=finished.path), "choose another with output="),
        (lambda: stockpot.whatif(finished, methods=["ewc"]), "methods=: 'ewc' is unknown"),
        (lambda: stockpot.run({**recipe, "name": "a/b"}), "use output= to choose a folder"),
        (lambda: stockpot.run({**recipe, "train": {"output_dir": "x"}}), "use output="),
    ):
        with pytest.raises(StockpotError, match=re.escape(argument)):
            call()
    with pytest.raises(SystemExit):
        main(["whatif", str(finished.path), "--methods", "ewc"])
    assert "--methods: 'ewc' is unknown" in capsys.readouterr().err
    with pytest.raises(StockpotError, match="methods=: 'ewc'"):
        stockpot.whatif(finished, methods=["ewc"])
