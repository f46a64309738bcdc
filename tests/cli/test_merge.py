"""`stockpot merge` and `stockpot rules` on the command line."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "merging"))
from checkpoints import assert_same, loaded, saved, state, tuned

import stockpot
from stockpot.cli import main


@pytest.fixture
def models(tmp_path: Path) -> Path:
    saved(tmp_path / "a", tuned(1))
    saved(tmp_path / "b", tuned(2))
    saved(tmp_path / "c", tuned(3))
    saved(tmp_path / "base", state(0))
    return tmp_path


@pytest.fixture
def run(models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command in the models' folder; returns its output, or after a failure `exit CODE: stderr`."""
    monkeypatch.chdir(models)

    def act(command: str) -> str:
        capsys.readouterr()
        try:
            main(command.split(" "))
        except SystemExit as leaving:
            if leaving.code:
                heard = capsys.readouterr()
                assert heard.err.count("\n") == 1, heard.err
                return f"exit {leaving.code}: {heard.err}"
        return capsys.readouterr().out

    return act


def expected(rule: str, names: str, base: bool = False, **parameters: object) -> dict[str, Tensor]:
    result = stockpot.merge(
        rule, [tuned("abc".index(name) + 1) for name in names], state(0) if base else None, **parameters
    )
    assert isinstance(result, dict)
    return result


def test_a_rule_and_models(run: Callable[..., str], models: Path) -> None:
    message = run("merge linear a b --set weight=3,1 -o out")
    assert "Merged 2 models by linear: 12 tensors, 1,001 parameters" in message
    assert_same(loaded(models / "out"), expected("linear", "ab", weight=[3, 1]))
    run("merge linear a b")
    assert_same(loaded(models / "merged" / "linear"), expected("linear", "ab"))
    run("merge ties a b c --base base --set density=0.3 --set lambda=0.5 --trim tensor --dtype float16 -o ties")
    assert_same(
        loaded(models / "ties"),
        expected("ties", "abc", True, density=0.3, lambda_=0.5, trim="tensor", dtype="float16"),
    )
    run("merge slerp a b --set t=[0,0.5,1] -o depth")
    result = loaded(models / "depth")
    assert torch.equal(result["model.layers.0.mlp.weight"], tuned(1)["model.layers.0.mlp.weight"])
    assert torch.equal(result["model.layers.2.mlp.weight"], tuned(2)["model.layers.2.mlp.weight"])


def test_a_configuration_and_what_changes_it(run: Callable[..., str], models: Path) -> None:
    (models / "config.yaml").write_text(
        "merge_method: ties\nbase_model: base\nmodels:\n"
        "  - {model: a, parameters: {density: 0.5, weight: 0.5}}\n  - {model: b, parameters: {density: 0.9}}\n"
        "parameters: {lambda: 0.5}\n"
    )
    run("merge config.yaml -o one")
    reference = expected("ties", "ab", True, density=[0.5, 0.9], weight=[0.5, 1.0], lambda_=0.5, trim="tensor")
    assert_same(loaded(models / "one"), reference)
    run("merge config.yaml -o two --set density=0.3 --trim model")
    assert_same(loaded(models / "two"), expected("ties", "ab", True, density=0.3, weight=[0.5, 1.0], lambda_=0.5))
    assert "exit 2" in run("merge config.yaml a -o three")


def test_the_resolved_recipe_makes_the_same_merge_again(run: Callable[..., str], models: Path) -> None:
    run("merge dare_ties a b -b base --set density=0.3,0.6 --seed 3 -o one")
    run("merge one/stockpot_merge.yaml -o two")
    assert_same(loaded(models / "two"), loaded(models / "one"))


def test_a_dry_run_writes_nothing_and_needs_no_torch(run: Callable[..., str], models: Path) -> None:
    before = sorted(path.name for path in models.iterdir())
    message = run("merge ties a b -b base -o out --dry-run --max-shard-size 1KB")
    assert "Writes 4 kB to out: 12 tensors, 1,001 parameters of F32, in" in message
    assert "two passes" in message
    assert "Nothing was written." in message
    assert sorted(path.name for path in models.iterdir()) == before
    code = (
        "import sys; from stockpot.cli import main\n"
        "try: main(['merge', 'ties', 'a', 'b', '-b', 'base', '-o', 'out', '--dry-run'])\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=models, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_names_all_that_does_not_fit(
    run: Callable[..., str], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = loaded(models / "b") | {"model.scale": torch.zeros(2), "new.weight": torch.zeros(1)}
    del other["lm_head.weight"]
    saved(models / "other", other)
    message = run("merge linear a other -o out --dry-run")
    assert message.startswith("exit 2: ")
    with pytest.raises(SystemExit):
        main(["merge", "linear", "a", "other", "-o", "out", "--dry-run"])
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Does not fit: ")]
    assert sorted(listed) == [
        "Does not fit: only other has 'new.weight' (1).",
        "Does not fit: other has 'model.scale' as [2], not [].",
        "Does not fit: other lacks 'lm_head.weight'.",
    ]


def test_mistakes_are_one_line_and_exit_code_2(run: Callable[..., str], models: Path) -> None:
    for command, answer in {
        "merge linnear a b": "Did you mean 'linear'?",
        "merge ties a b": "--base MODEL",
        "merge linear a nowhere": "nowhere does not exist",
        "merge linear a b --set weigth=1": "Did you mean 'weight'?",
        "merge linear a b --set weight": "write --set key=value",
        "merge linear a b --set weight=1,2,3": "3 values for 2 models",
        "merge linear a b --set weight=1,-1": "sum to zero",
        "merge linear a b -o a": "would overwrite the input",
        "merge linear a b -o base": "already exists",
        "merge linear a b --trim layer": "--trim must be one of model, tensor",
        "merge linear a b --on-missing ignore": "--on-missing must be one of error, base, skip",
        "merge linear a b --dtype int8": "is not a floating-point type",
        "merge linear a b --max-shard-size lots": "is not a file size",
        "merge linear a b --score x": "--score is only for greedy_soup",
        "merge greedy_soup a b": "--score",
        "merge none.yaml": "there is no such file",
        "rules lineer": "must be one of",
    }.items():
        message = run(command)
        assert message.startswith("exit 2: "), (command, message)
        assert answer in message, (command, message)
    assert not (models / "merged").exists()


# Without torch, whose import would take most of the test's time.
SCORER = """
import json, struct, sys
content = open(sys.argv[1] + "/model.safetensors", "rb").read()
start = 8 + struct.unpack("<Q", content[:8])[0]
offset = start + json.loads(content[8:start])["model.scale"]["data_offsets"][0]
scale = struct.unpack("<f", content[offset : offset + 4])[0]
print("some words")
print(-((scale - {target}) ** 2))
"""


def test_greedy_soup_keeps_what_does_not_hurt(run: Callable[..., str], models: Path) -> None:
    values = {"a": 1.0, "b": 3.0, "c": 9.0}
    for name, value in values.items():
        tensors = loaded(models / name) | {"model.scale": torch.tensor(value)}
        saved(models / f"{name}2", tensors)
    (models / "score.py").write_text(SCORER.format(target=2.0))
    command = " ".join([sys.executable, "-S", "score.py", "{model}"])
    from stockpot.cli.app import app

    try:
        app(["merge", "greedy_soup", "a2", "b2", "c2", "--score", command, "-o", "soup"])
    except SystemExit as leaving:
        assert not leaving.code
    assert loaded(models / "soup")["model.scale"] == 2.0
    assert not list(models.glob(".trial*"))
    (models / "score.py").write_text("import sys; sys.exit('no GPU')")
    try:
        app(["merge", "greedy_soup", "a2", "b2", "--score", command, "-o", "soup2"])
    except stockpot.StockpotError as error:
        assert "exit code 1: no GPU" in str(error)
    else:
        raise AssertionError("a failing score should be an error")
    assert not (models / "soup2").exists()


def test_rules_are_described(run: Callable[..., str]) -> None:
    message = run("rules")
    from stockpot.merging.rules import RULES

    for name in [*RULES, "greedy_soup"]:
        assert f"\n{name}\n" in f"\n{message}"
    assert "density = 0.2" in run("rules ties")


def stop_at(write: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends the process a signal at write number `write`."""
    real, count = os.pwrite, itertools.count(1)

    def writing(*arguments: Any) -> int:
        if next(count) == write:
            os.kill(os.getpid(), number)
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", writing)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_merge_that_is_stopped_says_how_it_goes_on(
    run: Callable[..., str],
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
    threads: int,
) -> None:
    command = f"merge linear a b -o out --max-shard-size 900B --threads {threads}"
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        stop_at(8, number, patch)
        message = run(command)
    assert message.startswith(f"exit {code}: Stopped by {number.name}: ")
    assert re.search(r"\d finished files? (was|were) kept: run the same command with --resume", message)
    assert not (models / "out").exists()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    run(f"{command} --resume")
    assert_same(loaded(models / "out"), expected("linear", "ab"))


def test_a_merge_that_is_stopped_before_its_first_file_is_whole_leaves_nothing(
    run: Callable[..., str], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in models.iterdir())
    with monkeypatch.context() as patch:
        stop_at(2, signal.SIGTERM, patch)
        message = run("merge linear a b -o out")
    assert message == "exit 143: Stopped by SIGTERM: nothing was kept: run the same command again.\n"
    assert sorted(path.name for path in models.iterdir()) == names
    assert run("merge linear a b -o out").rstrip().endswith("Model: out")
