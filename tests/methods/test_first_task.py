"""The first task: a start model that comes from a checkpoint is protected while it is learnt, random weights not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from speaking import llama, texts
from toy import assert_same, config, differ, examples, learn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from stockpot import methods
from stockpot.comparisons.cells import plan, recipe_of
from stockpot.errors import StockpotError
from stockpot.methods import registry
from stockpot.methods.base import Method, Task
from stockpot.methods.shared.first_task import FirstTaskConfig
from stockpot.recipe.read import validate
from stockpot.recipe.resolve import resolve
from stockpot.recipe.schema import Recipe
from stockpot.report.card import model_card
from stockpot.report.run_page import write_run_report
from stockpot.runs.actions import continue_run, create_run

KEYED = [name for name, method in registry().items() if issubclass(method.config_type, FirstTaskConfig)]
TINY = {
    "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip


@pytest.fixture
def pretrained(tmp_path: Path) -> Callable[[int], str]:
    """`pretrained(7)` → a saved ViT of seven classes."""

    def saved(rows: int) -> str:
        torch.manual_seed(1)
        ViTForImageClassification(ViTConfig(**TINY, num_labels=rows)).save_pretrained(tmp_path / f"base-{rows}")
        processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
        processor.save_pretrained(tmp_path / f"base-{rows}")
        return str(tmp_path / f"base-{rows}")

    return saved


@pytest.mark.parametrize("name", KEYED)
def test_auto_protects_what_comes_from_a_checkpoint_and_nothing_else(name: str, digits_recipe: dict[str, Any]) -> None:
    assert {"sfa", "wise_ft", "l2", "lwf", "task_arithmetic", "ties", "dare", "soup", "magmax",
            "fisher_average"} == set(KEYED)  # fmt: skip
    starts: dict[str, dict[str, Any]] = {
        "average": {"name": "some/model"},
        "skip": {"config": {"model_type": "vit"}},
    }
    for wanted, model in starts.items():
        recipe = validate(Recipe, {**digits_recipe, "model": model, "method": {"name": name}}, "here")
        assert resolve(recipe, recipe.method, 0).method.first_task == wanted
        chosen = resolve(recipe, config(name, first_task="skip"), 0)
        assert chosen.method.first_task == "skip"  # what the user says stays
    own = validate(Recipe, {**digits_recipe, "model": {"build": "mine:net"}, "method": {"name": name}}, "here")
    assert resolve(own, own.method, 0).method.first_task == "skip"  # what the user's code loads is not known


def test_every_cell_of_a_comparison_is_decided_alike(digits_recipe: dict[str, Any], pretrained: Any) -> None:
    compared = [{"name": name} for name in KEYED]
    values = {**digits_recipe, "model": {"name": pretrained(3)}, "tasks": [{"name": "only"}], "compare": compared}
    recipe = validate(Recipe, values, "here")
    found = {cell.method.name: resolve(recipe_of(recipe, cell), cell.method, 0).method for cell in plan(recipe)}
    assert {found[name].first_task for name in KEYED} == {"average"}


class Drawn(methods.sfa.SequentialFineTuningWithAveraging):
    """Told that the checkpoint lacked the output layer."""

    def task_start(self, task: Task) -> None:
        task.origin, task.drawn = "checkpoint", ["4.weight", "4.bias"] if task.index == 0 else []
        super().task_start(task)


def test_what_the_checkpoint_lacks_is_left_as_training_made_it(tmp_path: Path) -> None:
    """β = 1 gives the anchor back: the loaded weights do not move, and the new output layer learns."""
    learnt = learn(config("sfa", beta=1.0, every=1, first_task="average"), "plain", tmp_path, build=Drawn)
    start, first, second = learnt.weights
    moved = {name for name, tensor in first.items() if not tensor.equal(start[name])}
    assert moved == {"4.weight", "4.bias"}
    assert_same(second, first)  # from the second task on the output layer has a past, too
    assert learnt.methods[0].notes == [
        "task 'task0' is the first and was averaged (first_task: average), but for 4.weight, 4.bias, which the "
        "checkpoint lacks: the start model comes from a checkpoint"
    ]


def test_a_pretrained_language_model_teaches_in_its_first_task(tmp_path: Path) -> None:
    tasks: Any = [texts(0)]
    plain = learn(config("sequential"), "plain", tmp_path / "a", tasks=tasks, model=llama())
    taught = learn(config("lwf", first_task="average"), "plain", tmp_path / "b", tasks=tasks, model=llama())
    skipped = learn(config("lwf", first_task="skip"), "plain", tmp_path / "c", tasks=tasks, model=llama())
    assert differ(taught.weights[1], plain.weights[1])
    assert_same(skipped.weights[1], plain.weights[1])


@pytest.mark.parametrize("name", ["ewc", "mas", "si"])
def test_importances_do_not_protect_the_first_task_and_say_so(name: str, tmp_path: Path) -> None:
    class Loaded(registry()[name]):  # type: ignore[misc, name-defined]
        def task_start(self, task: Task) -> None:
            task.origin = "checkpoint"
            super().task_start(task)

    def notes(build: Callable[[Any], Method]) -> list[str]:
        learnt = learn(config(name), "plain", tmp_path / build.__name__, tasks=[examples(0)], build=build)
        return [note for note in learnt.methods[0].notes if "learnt as by plain fine-tuning" in note]

    assert len(notes(Loaded)) == 1
    assert notes(methods.build) == []


def test_a_run_of_one_task_from_a_checkpoint(
    digits_recipe: dict[str, Any], pretrained: Callable[[int], str], tmp_path: Path
) -> None:
    """β = 1: what was loaded comes back bit for bit; the output layer, of other classes, is new and learns."""
    values = {
        **digits_recipe, "model": {"name": pretrained(7)},
        "tasks": [{"name": "only", "data": {"classes": [0, 1, 2]}}],
        "controls": [{"name": "tilted", "data": {"classes": [0, 1, 2], "rotate": 20}}],
        "method": {"name": "sfa", "beta": 1.0},
    }  # fmt: skip
    recipe = validate(Recipe, values, "here")
    create_run(recipe, recipe.method, 0, tmp_path / "run")
    results = continue_run(tmp_path / "run")
    start, end = (load_file(tmp_path / "run" / "tasks" / place / "model" / "model.safetensors")
                  for place in ("00-start", "01-only"))  # fmt: skip
    assert {name for name, tensor in end.items() if not tensor.equal(start[name])} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert results.method["first_task"] == "average"
    [note] = [note for note in results.notes if "is the first" in note]
    assert "was averaged (first_task: average), but for classifier.bias, classifier.weight" in note
    assert note.endswith("the start model comes from a checkpoint")
    assert results.metrics.average_accuracy == results.scores["accuracy"].matrix[0][0]
    assert results.metrics.forgetting is None and len(results.scores["accuracy"].controls["tilted"]) == 2
    page = write_run_report([("run", results)], tmp_path / "report").read_text()
    assert "the start model comes from a checkpoint" in page
    assert "the start model comes from a checkpoint" in model_card(results, None, [], None)


def test_a_head_that_fits_comes_from_the_checkpoint_too(
    digits_recipe: dict[str, Any], pretrained: Callable[[int], str], tmp_path: Path
) -> None:
    values = {
        **digits_recipe, "model": {"name": pretrained(3)},
        "tasks": [{"name": "only", "data": {"classes": [0, 1, 2]}}], "method": {"name": "wise_ft", "alpha": 0.0},
    }  # fmt: skip
    recipe = validate(Recipe, values, "here")
    create_run(recipe, recipe.method, 0, tmp_path / "run")
    continue_run(tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert [event["drawn"] for event in events if event["event"] == "started"] == [[]]
    weights = [file.read_bytes() for file in sorted((tmp_path / "run" / "tasks").glob("*/model/model.safetensors"))]
    assert weights[0] == weights[1]


def test_a_model_that_the_users_code_loads_says_what_it_drew(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    """β = 1 in the first task: only what `drawn` names has moved, whole layers and single tensors alike."""
    values = {
        **digits_recipe,
        "tasks": [{"name": "only"}],
        "method": {"name": "sfa", "beta": 1.0},
    }
    model = {**digits_recipe["model"], "drawn": ["3", "1.bias"]}
    recipe = validate(Recipe, {**values, "model": model}, "here")
    create_run(recipe, recipe.method, 0, tmp_path / "run")
    results = continue_run(tmp_path / "run")
    start, end = (load_file(tmp_path / "run" / "tasks" / place / "model" / "model.safetensors")
                  for place in ("00-start", "01-only"))  # fmt: skip
    assert {name for name, tensor in end.items() if not tensor.equal(start[name])} == {"3.weight", "3.bias", "1.bias"}
    assert any("but for 1.bias, 3.bias, 3.weight, which the checkpoint lacks" in note for note in results.notes)

    wrong = validate(Recipe, {**values, "model": {**model, "drawn": ["1.bais"]}}, "here")
    with pytest.raises(StockpotError, match=r"model.drawn: .* no tensor or layer '1.bais'. Did you mean '1.bias'\?"):
        create_run(wrong, wrong.method, 0, tmp_path / "wrong")
        continue_run(tmp_path / "wrong")
