"""The examples run as they stand, and show what they are there to show."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "by_feature"


NEEDS = {
    "plain_loop": [],
    "accelerate_accumulate": [],
    "trainer": [],
    "trl_sft": ["trl"],
    "trl_dpo": ["trl"],
    "peft_lora": ["trl", "peft"],
    "lightning_callback": ["lightning"],
}


@pytest.mark.parametrize("name", NEEDS)
def test_sfa_keeps_more_than_plain_fine_tuning(name: str, tmp_path: Path) -> None:
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    source = Path(__file__).parents[2] / "src"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = {
        label: tuple(map(float, re.findall(r"task ([\d.]+)", line)))
        for label, line in re.findall(r"^(plain|SFA)(.*)$", done.stdout, re.MULTILINE)
    }
    (plain_first, plain_second), (first, second) = scores["plain"], scores["SFA"]
    assert plain_first < 0.1  # plain fine-tuning forgets the first task
    assert plain_second > 0.8
    assert first + second > plain_first + plain_second + 0.2
    assert not list(tmp_path.iterdir())


def test_merged_models_know_what_each_of_them_has_forgotten(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, FOLDER / "merge.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = {
        line.split()[0]: [float(word) for word in re.findall(r"\d\.\d+", line)] for line in done.stdout.splitlines()
    }
    assert scores["first"][1] < 0.1
    assert scores["second"][0] < 0.1
    for rule in ("linear", "task_arithmetic", "ties", "dare_ties", "magmax"):
        assert scores[rule][2] > max(scores["first"][2], scores["second"][2]) + 0.2
    assert scores["linear"][2] > scores["start"][2]
    assert not list(tmp_path.iterdir())


def test_every_example_is_tested() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == {"merge", *NEEDS}
