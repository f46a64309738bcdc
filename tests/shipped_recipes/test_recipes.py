"""Every shipped recipe runs: shrunk, on small real data or on data made here, and with a small model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from stockpot.comparisons.cells import contenders, prepare
from stockpot.recipe.read import read_recipe
from stockpot.runs.actions import continue_run, create_run

RECIPES = Path(__file__).parents[2] / "recipes"
VIT = (
    "model={config: {model_type: vit, image_size: 8, patch_size: 4, hidden_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 2, intermediate_size: 16}}"
)
SHRUNK = ["data.limit=2", "train.max_steps=2", "train.use_cpu=true", "seeds=[0]"]
HUB = [VIT, "train.dataloader_num_workers=0"]
MNIST = ["data.path={vision/mnist10k}"]
DOMAINS = [f"tasks.{number}.data.path={{vision/{name}}}" for number, name in enumerate(
    ["mnist10k", "fashion10k", "kmnist10k", "pneumonia"])]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A recipe, what is changed, and what it must come to: `{folder}` is a shared data set, `<name>` one made here."""

    recipe: str
    overrides: list[str]
    tasks: int
    rows: int
    scenario: str = "class-incremental"

    def __str__(self) -> str:
        return f"{self.recipe}-{self.scenario}"


CASES = [
    Case("quickstart", [], 2, 10),
    Case("quickstart-front", [], 2, 10),
    Case("split-mnist", MNIST, 5, 10),
    Case("split-mnist", [*MNIST, "scenario=domain-incremental"], 5, 2, "domain-incremental"),
    Case("split-mnist", [*MNIST, "scenario=task-incremental"], 5, 10, "task-incremental"),
    Case("permuted-mnist", MNIST, 5, 10, "domain-incremental"),
    Case("grey-domains", DOMAINS, 4, 10, "domain-incremental"),
    Case("split-cifar10", [*HUB, "data.path={vision/cifar10-jpeg}"], 5, 10),
    Case("split-cifar100", [*HUB, "data.path=<cifar100>"], 10, 100),
    Case("food101", [*HUB, "data.path=<food101>"], 11, 101),
]


@pytest.fixture
def made(hub_folder: Callable[..., Path]) -> Callable[[str], Path]:
    """Data sets with the columns and splits of the hub's, and noise for pictures."""

    def write(name: str) -> Path:
        noise = np.random.default_rng(0)
        coarse = {"coarse_label": [f"group {number}" for number in range(20)]} if name == "cifar100" else {}
        many, image, label, splits = {
            "cifar100": (100, "img", "fine_label", ("train", "test")),
            "food101": (101, "image", "label", ("train", "validation")),
        }[name]

        def columns() -> dict[str, list[Any]]:
            pictures = noise.integers(0, 256, (2 * many, 12, 10, 3), dtype=np.uint8)
            labels = [number % many for number in range(2 * many)]
            more = {key: [number % 20 for number in labels] for key in coarse}
            return {image: [Image.fromarray(picture) for picture in pictures], label: labels, **more}

        names = {label: [f"class {number}" for number in range(many)], **coarse}
        return hub_folder({split: columns() for split in splits}, name, **names)

    return write


@pytest.fixture
def overrides_of(made: Callable[[str], Path], shared_data: Callable[[str], Path]) -> Callable[[Case], list[str]]:
    def fill(case: Case) -> list[str]:
        filled = []
        for override in case.overrides:
            key, _, value = override.partition("=")
            if value.startswith("{vision"):
                value = str(shared_data(value.strip("{}")))
            elif value.startswith("<"):
                value = str(made(value.strip("<>")))
            filled.append(f"{key}={value}")
        return [*filled, *SHRUNK]

    return fill


def test_every_recipe_is_tried_here() -> None:
    language = {"law-math-code", "law-math-code-tiny", "one-chat-model"}  # in test_language_recipes.py
    assert {case.recipe for case in CASES} == {path.stem for path in RECIPES.glob("*.yaml")} - language


ALIKE = {"food101", "split-cifar10", "permuted-mnist", "split-mnist domain", "split-mnist task"}  # CIFAR-100 or MNIST


def by_tier(case: Case) -> Any:
    names = {case.recipe, f"{case.recipe} {case.scenario.removesuffix('-incremental')}"}
    return pytest.param(case, marks=pytest.mark.thorough) if names & ALIKE else case


DEFAULT = [by_tier(case) for case in CASES]


@pytest.mark.parametrize("case", DEFAULT, ids=str)
def test_a_recipe_runs(case: Case, overrides_of: Callable[[Case], list[str]], tmp_path: Path) -> None:
    recipe = read_recipe(RECIPES / f"{case.recipe}.yaml", overrides_of(case))
    prepare(recipe, tmp_path / "comparison")  # every method of its comparison fits the stream
    create_run(recipe, recipe.method, 0, tmp_path / "run")
    results = continue_run(tmp_path / "run")
    assert results.scenario == case.scenario
    assert len(results.tasks) == case.tasks
    assert results.costs.steps == 2 * case.tasks
    assert results.costs.averages == 2 * (case.tasks - 1)  # after both steps, of every task but the first
    matrix = results.scores["accuracy"].matrix
    assert [len(row) for row in matrix] == [case.tasks] * case.tasks
    rows = {row for names in results.head.values() for row in names}
    assert len(rows) == case.rows

    models = sorted((tmp_path / "run" / "tasks").iterdir())
    if recipe.keep == "needed":
        assert [model.name[:2] for model in models] == ["00", f"{case.tasks:02d}"]
    else:
        assert len(models) == case.tasks + 1
    start, end = (load_file(folder / "model" / "model.safetensors") for folder in (models[0], models[-1]))
    assert any(not (tensor == end[name]).all() for name, tensor in start.items())
    assert any(len(tensor) == case.rows for name, tensor in end.items() if name.endswith("weight"))
    config = models[-1] / "model" / "config.json"
    if recipe.model.build is None:
        assert set(json.loads(config.read_text())["id2label"].values()) == rows


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_compares_plain_fine_tuning_and_joint_training_once(path: Path) -> None:
    methods = contenders(read_recipe(path))
    names = [method.name for method in methods]
    assert names.count("sequential") == names.count("joint") == 1
    assert {"sfa", "wise_ft"} <= set(names)
    assert len({method.title for method in methods}) == len(methods)


def test_the_recipes_name_the_hubs_data_and_nothing_of_this_machine() -> None:
    for path in RECIPES.glob("*.yaml"):
        text = path.read_text()
        assert "shared/" not in text
        assert "../" not in text.replace("../docs/schema", "")
        assert text.startswith("# yaml-language-server: $schema=../docs/schema/recipe.schema.json\n")
