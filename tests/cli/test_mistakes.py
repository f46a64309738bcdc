"""Every mistake that a user can make gives exit code 2 and one line on stderr: what, where, and what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.methods import registry

VIT = "model_type: vit, image_size: 8, patch_size: 4, hidden_size: 8, num_attention_heads: 2, num_hidden_layers: 1"
MISTAKES = {
    "a wrong key": (["methd.beta=1"], r"recipe\.yaml: methd: unknown key\. Did you mean 'method'\?"),
    "a class that does not exist": (
        ["tasks=[{name: a}, {name: b, data: {classes: [0, 77]}}]"],
        r"task 'b': data\.classes: 'digits' has no class 77\. Classes 0 to 9: 0, 1, 2, 3",
    ),
    "beta beyond 1": (["method.beta=1.5"], r"method\.beta: beta must lie in \[0, 1\], the weight of the anchor"),
    "an empty task": (["tasks=[{name: a}, {name: b, data: {classes: []}}]"], r"tasks\.1\.data\.classes: an empty list"),
    "an empty stream": (["tasks=[]"], r"tasks: the stream is empty"),
    "a negative penalty": (["method={name: ewc, strength: -1}"], r"method\.strength: .*0.* -1"),
    "a memory smaller than the classes": (
        ["method={name: replay, select: herding, budget: total, count: 3}"],
        r"method 'replay': task 'part-1': a memory of 3 examples is smaller than the 5 classes",
    ),
    "a Fisher that is not there": (["method={name: ewc, start_fisher: /nowhere}"], r"/nowhere"),
    "an unknown method": (["method.name=replya"], r"unknown method 'replya'\. Did you mean 'replay'\?"),
    "nothing to average": (["tasks=[{name: only}]"], r"nothing would ever be averaged.*first_task: average"),
    "an override without a value": (["method.beta"], r"'method\.beta': an override has the form key\.sub=value"),
    "an override past a list": (["seeds=[0]", "seeds.4=1"], r"'seeds\.4=1': '4' is not an entry of a list of 1"),
    "a split larger than the classes": (["tasks.split=11"], r"tasks\.split: 11 classes in a task, but 'digits' has"),
    "no data": (["data.path=null"], r"no data set is named: give data\.path"),
    "a data folder that is not there": (["data.path=/nowhere/at/all"], r"/nowhere/at/all: there is no such folder"),
    "a hub data set without network": (["data.path=nobody/nothing"], r"'nobody/nothing' could not be opened: .*Hub"),
    "a choice that digits do not have": (["data.label=fine"], r"data\.label: the bundled digits have no such choice"),
    "an anchor that is not there": (["method.anchor=previuos"], r"no such file or folder\. Did you mean 'previous'\?"),
    "a typo in train": (["train.learning_rat=1"], r"train\.learning_rat: unknown key\. Did you mean 'learning_rate'"),
    "a word for a number": (["train.learning_rate=fast"], r"train\.learning_rate: should be a number, not 'fast'"),
    "a reserved name": (["train.seed=1"], r"train\.seed: not for a recipe: use the recipe's `seeds`"),
    "an unknown schedule": (["train.lr_scheduler_type=constnt"], r"lr_scheduler_type: .* Did you mean 'constant'\?"),
    "no training at all": (["train={num_train_epochs: 0}"], r"num_train_epochs: should be more than 0"),
    "a typo in a model's configuration": (
        [f"model={{config: {{{VIT}, hidden_sise: 3}}}}"],
        r"model\.config\.hidden_sise: vit has no such setting\. Did you mean 'hidden_size'\?",
    ),
    "an unknown kind of model": (["model={config: {model_type: vitt}}"], r"unknown: 'vitt'\. Did you mean 'vit'\?"),
    "a hub model without network": (["model={name: nobody/nothing}"], r"model\.name: nobody/nothing could not be"),
    "a model folder that is not there": (["model={name: ./nowhere}"], r"\./nowhere: there is no such folder"),
    "two models": (["model.name=vit"], r"exactly one of name, config and build; name and build given"),
    "a processor's typo": (["model.image_processor.sise=3"], r"image_processor\.sise: unknown .* Did you mean 'size'"),
    "a model that cannot take the images": (
        ["model.args.inputs=63"],
        r"task '[^']+': the model cannot take its images, 1x8x8: mat1 and mat2 shapes",
    ),
    "a builder that is not there": (["model={build: 'nowhere_at_all:make'}"], r"nowhere_at_all:make: there is no m"),
    "a seed twice": (["seeds=[0, 0]"], r"seeds: a seed appears twice"),
}  # fmt: skip


def one_line(done: Any) -> str:
    assert done.code == 2
    assert done.out == ""
    assert re.fullmatch(r"Error: [^\n]+\n", done.err), done.err
    return done.err.removeprefix("Error: ").rstrip("\n")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_recipe_is_one_line_and_leaves_nothing_behind(
    mistake: str, finished: Path, stockpot: Callable[..., Any], tmp_path: Path
) -> None:
    overrides, message = MISTAKES[mistake]
    for command in ("run", "compare"):
        error = one_line(stockpot(command, finished / "recipe.yaml", *overrides, "-o", tmp_path / "new"))
        assert re.search(message, error), error
        assert len(error) < 500
        assert not (tmp_path / "new").exists()


def test_a_folder_with_pickles_is_refused(finished: Path, stockpot: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text('{"model_type": "vit", "hidden_size": 8}')
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    error = one_line(
        stockpot("run", finished / "recipe.yaml", f"model={{name: {tmp_path / 'old'}}}", "-o", tmp_path / "n")
    )
    assert "holds pickled weights (.bin), not safetensors" in error
    assert "save_pretrained" in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("recipe.yaml", "a: [1\nb: 2", r"recipe\.yaml: line 2, column 2: expected ',' or ']'"),
        ("recipe.yaml", "seeds: [0]\nseeds: [1]\n", r"line 2, column 1: the key 'seeds' appears twice"),
        ("recipe.yaml", "- 1\n", r"expected `key: value` lines at the top"),
        ("recipe.yaml", "data: {}\n", r"recipe\.yaml: model: this key is required|tasks: this key is required"),
        ("other.yaml", "", r"recipe\.yaml: there is no such file"),
        ("recipee.yaml", "", r"recipe\.yaml: there is no such file\. Did you mean 'recipee\.yaml'\?"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_one_line(
    name: str, content: str, message: str, stockpot: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    for command in ("run", "compare"):
        assert re.search(message, one_line(stockpot(command, tmp_path / "recipe.yaml")))


def test_a_place_that_is_taken_is_not_overwritten(finished: Path, stockpot: Callable[..., Any], tmp_path: Path) -> None:
    recipe, run = finished / "recipe.yaml", finished / "run"
    before = (run / "journal.jsonl").read_bytes(), (run / "recipe.yaml").read_bytes()
    error = one_line(stockpot("run", recipe, "-o", run))
    advice = f"continue it with `stockpot resume {run}`, or choose another folder with -o"
    assert f"there is already a run here; {advice}" in error
    assert "this is the folder of a single run; choose another with -o" in one_line(
        stockpot("compare", recipe, "-o", run)
    )
    assert ((run / "journal.jsonl").read_bytes(), (run / "recipe.yaml").read_bytes()) == before
    assert one_line(stockpot("run", recipe, "-o", recipe))  # a file
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "own.txt").write_text("mine")
    error = one_line(stockpot("run", recipe, "-o", tmp_path / "notes"))
    assert "not empty (it holds own.txt); choose another with -o" in error
    assert "not empty and does not hold a comparison" in one_line(stockpot("compare", recipe, "-o", tmp_path / "notes"))
    assert sorted(entry.name for entry in (tmp_path / "notes").iterdir()) == ["own.txt"]
    assert "exists already; choose another file" in one_line(stockpot("init", recipe))
    assert recipe.read_text().startswith("data:")


@pytest.mark.parametrize("command", ["resume", "report", "add"])
def test_what_is_no_run_folder_is_said_to_be_none(
    command: str, finished: Path, stockpot: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "task.yaml").write_text("name: next\n")
    more = [tmp_path / "task.yaml"] if command == "add" else []
    assert "not a run folder: it has no journal.jsonl" in one_line(stockpot(command, tmp_path, *more))
    assert "nowhere: there is no such folder" in one_line(stockpot(command, tmp_path / "nowhere", *more))
    assert "recipe.yaml: there is no such folder" in one_line(stockpot(command, finished / "recipe.yaml", *more))


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        ("name: part-1", [], r"task 'part-1': the stream already has a task of this name; choose another"),
        ("name: next", ["data.classes=[12]"], r"task 'next': data\.classes: 'digits' has no class 12"),
        ("name: next", ["dta=1"], r"task\.yaml: dta: unknown key\. Did you mean 'data'\?"),
        ("name: next", ["data.path=/nowhere"], r"task 'next': data\.path: /nowhere: there is no such folder"),
        ("name: next", ["train.max_stps=1"], r"train\.max_stps: unknown key\. Did you mean 'max_steps'\?"),
        ("data: {}", [], r"task\.yaml: name: this key is required"),
        ("[]", [], r"task\.yaml: expected `key: value` lines at the top"),
    ],
)
@pytest.mark.parametrize("branch", [False, True])
def test_a_mistake_in_an_added_task_changes_nothing(
    task: str,
    overrides: list[str],
    message: str,
    branch: bool,
    finished: Path,
    stockpot: Callable[..., Any],
    tmp_path: Path,
) -> None:
    shutil.copytree(finished / "run", run := tmp_path / "run")
    (tmp_path / "task.yaml").write_text(task)
    journal = (run / "journal.jsonl").read_bytes()
    more = ["-o", tmp_path / "branch"] if branch else []
    error = one_line(stockpot("add", run, tmp_path / "task.yaml", *overrides, *more))
    assert re.search(message, error), error
    assert (run / "journal.jsonl").read_bytes() == journal
    assert not (tmp_path / "branch").exists()


def test_a_name_that_is_not_known_gives_those_that_are(stockpot: Callable[..., Any], tmp_path: Path) -> None:
    error = one_line(stockpot("methods", "sfaa"))
    assert error == f"there is no method 'sfaa'. Did you mean 'sfa'? Known: {', '.join(registry())}."
    error = one_line(stockpot("schema", "recip"))
    assert (
        error == "there is no schema 'recip'. Did you mean 'recipe'? Known: recipe, task, results, comparison, whatif."
    )
    assert "there is no such folder" in one_line(stockpot("init", tmp_path / "nowhere" / "recipe.yaml"))


def test_a_command_that_is_not_there_is_suggested(stockpot: Callable[..., Any]) -> None:
    done = stockpot("runn", "recipe.yaml")
    assert done.code == 2
    assert "No such command 'runn'. Did you mean 'run'?" in done.err
    for arguments in (["run"], ["run", "--foo"], ["resume"]):
        done = stockpot(*arguments)
        assert done.code == 2
        assert "Traceback" not in done.err


def test_a_beta_that_fits_no_tensor_is_told_before_anything_is_learnt(
    finished: Path, stockpot: Callable[..., Any], tmp_path: Path
) -> None:
    done = stockpot("run", finished / "recipe.yaml", "method.beta={'9.*': 0.5, '*': 0.1}", "-o", tmp_path / "run")
    assert done.code == 2
    assert "Error: beta: no tensor of the model matches '9.*'. Did you mean '3.*'?\n" in done.err
    assert not (tmp_path / "run" / "tasks" / "01-part-1").exists()


def test_training_that_diverges_says_what_to_lower(
    finished: Path, stockpot: Callable[..., Any], tmp_path: Path
) -> None:
    done = stockpot("run", finished / "recipe.yaml", "train.learning_rate=1e38", "-o", tmp_path / "run")
    assert done.code == 2
    assert re.search(
        r"Error: task 'part-1': training diverged: [\w.]+ holds values .*lower train\.learning_rate", done.err
    )
    assert "Traceback" not in done.err


def test_a_name_that_is_a_path_writes_nothing(
    finished: Path, stockpot: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    for command in ("run", "compare"):
        error = one_line(stockpot(command, finished / "recipe.yaml", "name=../../trav"))
        assert "name: '../../trav' is not a name: no slashes" in error
    one_line(stockpot("merge", "../../trav", "a", "b"))
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "er"]
