"""What the commands do when all is well."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.cli.app import app
from stockpot.methods import registry
from stockpot.methods.declare.docstring import sections
from stockpot.recipe.read import read_recipe

COMMANDS = [
    "check", "run", "add", "resume", "compare", "report", "whatif", "push", "merge", "rules", "methods", "init",
    "schema", "inspect",
]  # fmt: skip
HEAVY = ("torch", "transformers", "vl_convert", "datasets", "numpy")
Command = Callable[..., Any]


def test_help_names_every_command(stockpot: Command) -> None:
    done = stockpot("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert re.search(rf"^\W*{command} ", done.out, re.MULTILINE), command
    assert stockpot("-h").out == done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_of_its_own(command: str, stockpot: Command) -> None:
    done = stockpot(command, "--help")
    assert done.code == 0
    assert f"stockpot {command}" in done.out or f" {command} " in done.out
    assert len(done.out.splitlines()) > 5


def test_every_command_is_declared_in_the_file_of_its_name() -> None:
    declared = {command.name: command.callback.__module__ for command in app.registered_commands if command.callback}
    assert declared == {name: f"stockpot.cli.{name}" for name in COMMANDS}


def test_the_version_is_that_of_the_package(stockpot: Command) -> None:
    from importlib.metadata import version

    assert stockpot("--version").out == f"stockpot {version('stockpot')}\n"


@pytest.mark.parametrize(
    "code",
    [
        "import stockpot",
        "from stockpot.cli import main; main(['--help'])",
        "from stockpot.cli import main; main(['run', '-h'])",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    report = f"print('heavy:', [module for module in {HEAVY} if module in sys.modules])"
    look = f"import sys\ntry:\n  {code}\nexcept SystemExit: pass\n{report}"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_the_module_and_the_script_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("stockpot")
    outputs = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
        for command in ([sys.executable, "-m", "stockpot"], *([[str(script)]] if script.exists() else []))
    ]
    assert len(set(outputs)) == 1


def test_methods_says_every_equation_and_every_parameter(stockpot: Command) -> None:
    out = " ".join(stockpot("methods").out.split())
    for name, method in registry().items():
        text = " ".join(stockpot("methods", name).out.split())
        assert text in out
        assert text.startswith(name)
        equation = re.search(r"Equation: `([^`]+)`", method.__doc__ or "")
        assert equation is not None or "Equation: " in text
        if equation is not None:
            assert equation[1] in text
        for field, info in method.config_type.model_fields.items():
            if field not in ("name", "label"):
                assert re.search(rf"\b{field}\b", text), field
                assert " ".join((info.description or "?").split()) in text, field
    assert "beta = 0.25 weight of the anchor" in out
    assert "alpha = 0.5 weight of the fine-tuned weights" in out


def test_the_page_of_methods_is_that_of_the_code(stockpot: Command) -> None:
    page = stockpot("methods", "--markdown").out
    assert page == (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    for name, method in registry().items():
        parts = sections(method.__doc__ or "")
        assert {"", "Equation", "Cost", "Kept", "Use"} <= {tag for tag, text in parts.items() if text}, name
        assert ("Paper" in parts) == (name not in ("sequential", "joint"))
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        assert all(text in section for text in parts.values())
        fields = set(method.config_type.model_fields) - {"name", "label", "train"}  # every method has these
        assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == fields


def test_schema_prints_json(stockpot: Command) -> None:
    from stockpot.cli.schema import schema_of

    for name in ("recipe", "task", "results", "comparison", "whatif"):
        assert json.loads(stockpot("schema", name).out) == schema_of(name)
    assert json.loads(stockpot("schema").out) == schema_of("recipe")


def test_init_writes_a_recipe_that_runs_as_it_stands(stockpot: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert stockpot("init", path).out == f"Wrote {path}. Next: stockpot check {path}, then stockpot run {path}\n"
    recipe = read_recipe(path)
    assert {method.name for method in recipe.compare} == {"sfa", "wise_ft", "replay"}
    assert path.read_text().count("#") > 15  # commented
    done = stockpot("run", path, "data.limit=4", "train.max_steps=2", "train.use_cpu=true", "-o", tmp_path / "run")
    assert done.code == 0
    assert (tmp_path / "run" / "tasks" / "02-five-to-nine" / "model" / "model.safetensors").is_file()


def test_what_init_has_in_comments_is_right_too(stockpot: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    stockpot("init", path)
    text = path.read_text()
    text = text.replace("# controls:\n#   -", "controls:\n  -").replace("# train: {", "train: {")
    text = re.sub(r"  build: .*\n  args: .*\n", "", text).replace("# name: google", "name: google")
    path.write_text(text)
    recipe = read_recipe(path)
    assert recipe.controls[0].data.rotate == 20
    assert recipe.tasks[1].train == {"num_train_epochs": 3}
    assert recipe.model.name == "google/vit-base-patch16-224-in21k"
    other = re.sub(r"  name: .*", "", text).replace("# config:", "config:")
    path.write_text(other)
    assert read_recipe(path).model.config == {"model_type": "vit", "image_size": 28}


def test_run_leaves_what_it_says(finished: Path, stockpot: Command, tmp_path: Path) -> None:
    done = stockpot("run", finished / "recipe.yaml", "method.beta=0.75", "seeds=[4, 5]", "-o", tmp_path / "run")
    assert done.code == 0
    assert "The recipe has 2 seeds; `run` uses the first, 4." in done.out
    assert "task 2/2 part-2" in done.err  # progress
    run = tmp_path / "run"
    model = Path(re.search(r"^Model:  (.+)$", done.out, re.MULTILINE)[1])
    report = Path(re.search(r"^Report: (.+)$", done.out, re.MULTILINE)[1])
    assert (model / "model.safetensors").is_file()
    assert report == run / "report.html"
    results = json.loads((run / "results.json").read_text())
    assert results["method"]["beta"] == 0.75
    assert results["seed"] == 4
    assert results["tasks"] == ["part-1", "part-2"]
    assert "is the first and was not averaged (first_task: skip): the start model has random weights." in done.out
    assert read_recipe(run / "recipe.yaml").method.beta == 0.75


def test_add_learns_the_next_task_in_place_or_in_a_branch(finished: Path, stockpot: Command, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", run := tmp_path / "run")
    (tmp_path / "task.yaml").write_text("name: tilted\ndata: {classes: [0, 1], rotate: 20}\n")
    before = (run / "journal.jsonl").read_bytes()
    done = stockpot("add", run, tmp_path / "task.yaml", "data.limit=3", "-o", tmp_path / "branch")
    assert done.code == 0
    assert (run / "journal.jsonl").read_bytes() == before
    assert stockpot("add", run, tmp_path / "task.yaml", "data.limit=3").code == 0
    one, other = (json.loads((folder / "results.json").read_text()) for folder in (run, tmp_path / "branch"))
    assert one["tasks"] == ["part-1", "part-2", "tilted"]
    assert one["scores"] == other["scores"]
    assert [len(row) for row in one["scores"]["accuracy"]["matrix"]] == [3, 3, 3]
    assert one["data"]["tilted"]["train"] == 6


def test_resume_of_a_finished_run_learns_nothing_and_writes_the_report(
    finished: Path, stockpot: Command, tmp_path: Path
) -> None:
    shutil.copytree(finished / "run", run := tmp_path / "run")
    before = (run / "journal.jsonl").read_bytes()
    (run / "report.html").unlink()
    done = stockpot("resume", run)
    assert done.code == 0
    assert "Every task is learnt already" in done.out
    assert (run / "report.html").is_file()
    assert (run / "journal.jsonl").read_bytes() == before


def test_foreign_code_in_a_run_folder_needs_leave(
    finished: Path, stockpot: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\n\n"
        "def build(num_labels):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_labels))\n"
    )
    (tmp_path / "task.yaml").write_text("name: next\ndata: {classes: [0, 1]}\n")
    monkeypatch.chdir(tmp_path)
    assert stockpot("run", finished / "recipe.yaml", "model={build: 'own_network:build'}", "-o", "run").code == 0
    sys.modules.pop("own_network")
    done = stockpot("add", "run", "task.yaml")
    assert done.code == 2
    assert "built by the code at 'own_network:build'; read it, and add --allow-code to import it" in done.err
    assert "own_network" not in sys.modules
    assert stockpot("add", "run", "task.yaml", "--allow-code").code == 0


def test_compare_leaves_numbers_a_report_and_a_run_for_every_cell(
    finished: Path, stockpot: Command, tmp_path: Path
) -> None:
    command = ["compare", finished / "recipe.yaml", "compare=[{name: sequential}, {label: half, name: sfa, beta: 0.5}]",
               "loop=plain", "seeds=[0, 1]", "-o", tmp_path / "out"]  # fmt: skip
    done = stockpot(*command)
    assert done.code == 0
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert set(comparison["methods"]) == {"sequential", "half", "joint"}  # joint runs always
    assert comparison["seeds"] == [0, 1]
    for label, method in comparison["methods"].items():
        assert label in done.out
        accuracy = method["average_accuracy"]
        assert accuracy["low"] <= accuracy["mean"] <= accuracy["high"]
        runs = [tmp_path / "out" / cell["run"] for cell in method["cells"]]
        results = [json.loads((run / "results.json").read_text()) for run in runs]
        assert [each["seed"] for each in results] == [0, 1]
        values = [each["metrics"]["average_accuracy"] for each in results]
        assert accuracy["values"] == values
        assert accuracy["mean"] == pytest.approx(sum(values) / 2)
        assert all((run / "tasks" / "02-part-2" / "model" / "model.safetensors").is_file() for run in runs)
    assert comparison["methods"]["half"]["averages"]["mean"] == 2  # of two steps, p = 0.25: each
    assert comparison["methods"]["joint"]["stored_data_bytes"]["mean"] > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "half" in page
    assert "<html" in page

    journals = sorted((tmp_path / "out").rglob("journal.jsonl"))
    assert len(journals) == 6
    before = [(journal.read_bytes(), journal.stat().st_mtime_ns) for journal in journals]
    (tmp_path / "out" / "report.html").unlink()
    again = stockpot(*command)
    assert again.code == 0
    assert [(journal.read_bytes(), journal.stat().st_mtime_ns) for journal in journals] == before  # nothing ran anew
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == comparison
    assert (tmp_path / "out" / "report.html").is_file()

    other = stockpot(*command, "train.max_steps=3")
    assert other.code == 2
    assert "this cell was run from another recipe" in other.err
    refused = stockpot("resume", tmp_path / "out")
    assert refused.code == 2
    assert "this is a comparison; run its `stockpot compare` again" in refused.err


def test_report_is_written_again_for_a_run_several_or_a_comparison(
    finished: Path, stockpot: Command, tmp_path: Path
) -> None:
    run = finished / "run"
    assert stockpot("report", run, "-o", tmp_path / "one").out == f"Report: {tmp_path / 'one' / 'report.html'}\n"
    shutil.copytree(run, tmp_path / "copy")
    assert stockpot("report", run, tmp_path / "copy", "-o", tmp_path / "two").code == 0
    page = (tmp_path / "two" / "report.html").read_text()
    assert "run" in page
    assert "copy" in page


@pytest.mark.thorough
def test_a_command_stands_on_its_own_in_another_process(finished: Path, tmp_path: Path) -> None:
    """The default folder is `runs` and the recipe's name."""
    shutil.copy(finished / "recipe.yaml", tmp_path / "mine.yaml")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "stockpot", "run", "mine.yaml"],
        capture_output=True, text=True, check=False, timeout=120, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = (tmp_path / "runs" / "mine", finished / "run")
    here, there = (json.loads((run / "results.json").read_text()) for run in runs)
    assert here["scores"] == there["scores"]
    assert "Warning" not in done.stderr
