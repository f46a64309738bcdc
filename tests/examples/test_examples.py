"""The examples run as they stand, and show what they are there to show."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import forks
import pytest
from pristine import Pristine
from tiers import sample

FOLDER = Path(__file__).parents[2] / "examples" / "by_feature"

NEEDS = {
    "merge": [],
    "plain_loop": [],
    "beta_auto": [],
    "accelerate_accumulate": [],
    "trainer": [],
    "trl_sft": ["trl"],
    "trl_dpo": ["trl"],
    "peft_lora": ["trl", "peft"],
    "lightning_callback": ["lightning"],
}


@pytest.fixture(scope="session")
def outputs(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, pristine: Pristine
) -> dict[str, str]:
    """What each example printed that is to be tested and can run here. Each ended well and left no file."""
    folder = tmp_path_factory.mktemp("examples")
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = {"merge", "beta_auto", *(params.get("name") for params in calls)}
    installed = {name for name, needs in NEEDS.items() if all(importlib.util.find_spec(package) for package in needs)}
    names = [name for name in NEEDS if name in wanted & installed]
    with pristine.start(forks.serve) as connection:
        connection.send((folder, [FOLDER / f"{name}.py" for name in names]))
        assert connection.poll(600)
        assert connection.recv() == "done"
    for name in names:
        assert (folder / f"{name}.code").read_text() == "0", (folder / f"{name}.err").read_text()
        assert not list((folder / name).iterdir())
    return {name: (folder / f"{name}.out").read_text() for name in names}


@pytest.mark.parametrize("name", sample([name for name in NEEDS if name not in ("merge", "beta_auto")]))
def test_sfa_keeps_more_than_plain_fine_tuning(outputs: dict[str, str], name: str) -> None:
    if name not in outputs:
        pytest.skip(f"{' or '.join(NEEDS[name])} is not installed")
    scores = {
        label: tuple(map(float, re.findall(r"task ([\d.]+)", line)))
        for label, line in re.findall(r"^(plain|SFA)(.*)$", outputs[name], re.MULTILINE)
    }
    (plain_first, plain_second), (first, second) = scores["plain"], scores["SFA"]
    assert plain_first < 0.1  # plain fine-tuning forgets the first task
    assert plain_second > 0.8
    assert first + second > plain_first + plain_second + 0.2


def test_beta_auto_keeps_more_than_a_fixed_beta_that_was_not_searched(outputs: dict[str, str]) -> None:
    plain, fixed, auto = (
        [float(score) for score in re.findall(r"\d\.\d\d(?!\d)", line.partition("earlier")[2])]
        for line in outputs["beta_auto"].splitlines()[:3]
    )
    assert plain[0] < 0.1
    assert auto[2] > max(plain[2], fixed[2]) + 0.15
    assert outputs["beta_auto"].endswith("importance.json, importance.safetensors\n")


def test_merged_models_know_what_each_of_them_has_forgotten(outputs: dict[str, str]) -> None:
    scores = {
        line.split()[0]: [float(word) for word in re.findall(r"\d\.\d+", line)]
        for line in outputs["merge"].splitlines()
    }
    assert scores["first"][1] < 0.1
    assert scores["second"][0] < 0.1
    for rule in ("linear", "task_arithmetic", "ties", "dare_ties", "magmax"):
        assert scores[rule][2] > max(scores["first"][2], scores["second"][2]) + 0.2
    assert scores["linear"][2] > scores["start"][2]


def test_every_example_is_tested() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == NEEDS.keys()
