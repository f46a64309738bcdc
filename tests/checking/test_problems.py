"""Every problem at once, warnings, memory, and the words of a check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import stockpot
from stockpot.checking.outcome import MemoryCheck, ShownImage, TaskCheck, TokenCounts
from stockpot.checking.warnings_about import data_warnings, memory_warning
from stockpot.errors import StockpotError
from stockpot.models.processor import PlainProcessor


def test_all_mistakes_of_a_recipe_are_listed(write_yaml: Callable[..., Path], digits_recipe: dict[str, Any]) -> None:
    train = {**digits_recipe["train"], "fp16": True, "learning_rat": 1}
    broken = {**digits_recipe, "metod": {}, "train": train, "method": {"name": "sfa", "bta": 1}}
    file = write_yaml(broken)
    checked = stockpot.check(file, ["evaluation.limit=0"])
    assert not checked.ok
    assert checked.tasks == []
    start = f"{file}: "
    assert [error.removeprefix(start) for error in checked.errors] == [
        "method.bta: unknown key. Did you mean 'beta'?",
        "metod: unknown key. Did you mean 'method'?",
        "evaluation.limit: should be greater than or equal to 1, not 0.",
        "train.fp16: not for a recipe: methods act on unscaled gradients; use bf16.",
        "train.learning_rat: unknown key. Did you mean 'learning_rate'?",
    ]


def test_the_data_of_every_task_are_read_although_those_of_others_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_text('{"text": "a b c"}\n' * 4)
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 3.5, "x": null}\n' * 2)
    recipe = {
        "model": {"config": {"model_type": "gpt2"}, "tokenizer": {"train": 300}},
        "scenario": "language",
        "tasks": [
            {"name": "gone", "data": {"path": str(tmp_path / "gone.jsonl")}},
            {"name": "good", "data": {"path": str(tmp_path / "good.jsonl")}},
            {"name": "odd", "data": {"path": str(tmp_path / "good.jsonl"), "text": "txt"}},
        ],
        "controls": [{"name": "lost", "data": {"path": str(tmp_path / "lost.csv")}}],
    }
    errors = stockpot.check(recipe).errors
    assert [error.split(":")[0] for error in errors] == ["task 'gone'", "task 'odd'", "task 'lost'"]
    assert "Did you mean 'text'?" in errors[1]


def test_every_method_that_cannot_start_is_listed(digits_recipe: dict[str, Any]) -> None:
    recipe = {
        **digits_recipe,
        "method": {"name": "ewc", "start_fisher": "nowhere"},
        "compare": [{"name": "sfa", "anchor": "nowhere"}, {"name": "sequential"}],
    }
    errors = stockpot.check(recipe).errors
    assert [error.split(":")[0] for error in errors] == ["method 'ewc'", "method 'sfa'"]


def test_a_taken_folder_is_a_problem_where_it_is_named(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    assert "not empty" in stockpot.check(digits_recipe, n=0, output=tmp_path / "taken").errors[0]
    assert stockpot.check(digits_recipe, n=0, output=tmp_path / "free").ok


def test_memory_is_that_of_weights_gradients_optimizer_and_method(digits_recipe: dict[str, Any]) -> None:
    numbers = 64 * 16 + 16 + 16 * 10 + 10
    for method, optim, moments, copies in (
        ("sequential", "adamw_torch", 2, 0),
        ("l2", "sgd", 0, 1),
        ("si", "adagrad", 1, 6),
    ):
        settings = {**digits_recipe["train"], "optim": optim}
        recipe = {**digits_recipe, "method": {"name": method}, "train": settings}
        memory = stockpot.check(recipe, n=0).memory
        assert memory is not None
        assert (memory.parameters, memory.trained) == (numbers, numbers)
        assert (memory.weights, memory.gradients) == (4 * numbers, 4 * numbers)
        assert (memory.optimizer, memory.method) == (4 * numbers * moments, 4 * numbers * copies)
        assert memory.total == 4 * numbers * (2 + moments + copies)


def test_past_examples_count_as_memory_and_images_are_not_all_read(
    digits_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    process = PlainProcessor.__call__

    def counting(processor: PlainProcessor, images: list[Any]) -> Any:
        read.append(len(images))
        return process(processor, images)

    monkeypatch.setattr(PlainProcessor, "__call__", counting)
    for method, kept in (
        ({"name": "replay", "count": 7}, 7),
        ({"name": "agem", "count": 5}, 5),
        ({"name": "joint"}, 30),
    ):
        memory = stockpot.check({**digits_recipe, "method": method}, n=2).memory
        assert memory is not None
        assert memory.method == kept * (64 * 4 + 8)
    assert sum(read) < 3 * 2 * 20


def test_images_are_shown_after_the_processor(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    checked = stockpot.check(digits_recipe, n=2, images=tmp_path / "pictures")
    first = checked.tasks[0]
    assert first.classes == {str(digit): (6, 6) for digit in range(5)}
    image = first.shown[0]
    assert isinstance(image, ShownImage)
    assert (image.label, image.shape, image.low) == ("0", (1, 8, 8), 0.0)
    assert checked.pictures == [str(tmp_path / "pictures" / f"part-{n}.png") for n in (1, 2)]
    sheet = np.asarray(Image.open(checked.pictures[0]).convert("L"))
    assert sheet.shape == (4 * (96 + 24) + 8, 8 * (96 + 8) + 8)  # thirty pictures of 8 x 8, twelve times as large
    assert len(np.unique(sheet[8:104, 8:104])) > 4


def task(**changes: Any) -> TaskCheck:
    values: dict[str, Any] = {
        "name": "a", "path": "d", "train": 100, "test": 20, "examples": 100, "general": 0, "batch_size": 8,
        "accumulation": 1, "epochs": 1.0, "steps": 13, "seen_examples": 100, "seen_tokens": 0, "exact": True,
    }  # fmt: skip
    return TaskCheck(**{**values, **changes})


def test_what_disappoints_is_a_warning() -> None:
    assert list(data_warnings(task())) == []
    counts = TokenCounts(epoch=900, learnt=90, longest=64, limit=64, cut=30, left_out=2)
    assert list(data_warnings(task(tokens=counts, repeated=3, classes={"x": (9, 2), "y": (9, 0)}))) == [
        "task 'a': 30 of 100 training texts lose their end, over 64 tokens: raise data.max_length, or cut them "
        "yourself.",
        "task 'a': 2 of 100 training texts are left out, since their prompts have over 64 tokens.",
        "task 'a': 3 of 20 test examples are among the training examples, too: their score says nothing about new "
        "ones.",
        "task 'a': no test examples of y.",
    ]
    (warning,) = memory_warning(MemoryCheck(9, 9, 40, 40, 80, 0, available=159))
    assert warning.startswith("memory: 160 B without activations are more than the 159 B that are free")
    assert not list(memory_warning(MemoryCheck(9, 9, 40, 40, 80, 0, available=160)))


def test_texts_that_are_in_both_parts_are_counted(tmp_path: Path) -> None:
    for part, texts in (("train", "abcd"), ("test", "cdx")):
        rows = [json.dumps({"text": f"text {letter}", "label": letter in "ac"}) for letter in texts]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(rows))
    config = {"model_type": "gpt2", "n_embd": 8, "n_head": 1, "n_layer": 1, "n_positions": 32}
    recipe = {
        "model": {"config": config, "tokenizer": {"train": 300}},
        "scenario": "domain-incremental",
        "tasks": [{"name": "a", "data": {"path": str(tmp_path)}}],
        "method": {"name": "sequential"},
    }
    checked = stockpot.check(recipe, n=1)
    assert checked.ok, str(checked)
    assert checked.tasks[0].repeated == 2
    assert "class  train + test: False 2 + 2, True 2 + 1" in str(checked)
    assert "example 1: " in str(checked)
    assert checked.as_values()["tasks"][0]["shown"][0]["label"] == "True"


@pytest.mark.parametrize(
    ("problem", "labels", "words"),
    [
        ("multi_label_classification", [["red", "tall"], ["tall"], []], ["red, tall", "tall", "none"]),
        ("regression", [0.5, 1.25, 3.0], ["label 0.5", "label 1.25", "label 3"]),
    ],
)
def test_several_labels_and_numbers_are_shown_in_words(
    problem: str, labels: list[Any], words: list[str], tmp_path: Path
) -> None:
    rows = [{"text": f"text {number}", "label": labels[number % 3]} for number in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"path": str(tmp_path / "rows.jsonl"), "text": "text", "problem_type": problem, "test_split": "train"}
    config = {"model_type": "gpt2", "n_embd": 8, "n_head": 1, "n_layer": 1, "n_positions": 32}
    recipe = {
        "model": {"config": config, "tokenizer": {"train": 300}},
        "scenario": "domain-incremental",
        "tasks": [{"name": "a", "data": data}],
        "method": {"name": "sequential"},
        "train": {"use_cpu": True, "num_train_epochs": 1},
    }
    checked = stockpot.check(recipe, time=True)
    assert checked.ok, str(checked)
    assert [example.label for example in checked.tasks[0].shown] == words
    assert f"`label` its {'labels' if problem.startswith('multi') else 'numbers'}" in checked.guesses[0]


def test_a_mistake_says_what_was_guessed_of_the_data_and_an_added_task_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": "a", "answer": " "}\n')
    config = {"model_type": "gpt2", "n_embd": 8, "n_head": 1, "n_layer": 1, "n_positions": 32}
    task = {"name": "a", "data": {"path": str(path), "test_split": "train"}}
    recipe = {
        "model": {"config": config, "tokenizer": {"train": 300}},
        "tasks": [task],
        "method": {"name": "sequential"},
        "loop": "plain",
        "train": {"use_cpu": True, "max_steps": 1},
    }
    with pytest.raises(StockpotError, match="row 1: the completion is empty") as caught:
        stockpot.run(recipe, output=tmp_path / "run")
    assert "Guessed from the data: " in str(caught.value)
    assert "read as prompts with completions: columns `question` and `answer`" in str(caught.value)
    path.write_text('{"question": "a", "answer": "b"}\n' * 2)
    run = stockpot.run(recipe, output=tmp_path / "run")
    assert f"{path}: scenario: language, since the data have no classes" in capsys.readouterr().err
    stockpot.add(run, {**task, "name": "b"})
    assert f"{path}: read as prompts with completions" in capsys.readouterr().err


def test_data_sets_of_python_are_checked() -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": [f"words {n}" for n in range(20)]})
    config = {"model_type": "gpt2", "n_embd": 8, "n_head": 1, "n_layer": 1, "n_positions": 32}
    recipe = {
        "model": {"config": config, "tokenizer": {"train": 300}},
        "tasks": [{"name": "a"}],
        "method": {"name": "sequential"},
    }
    checked = stockpot.check(recipe, data=rows, n=1)
    assert checked.ok, str(checked)
    assert checked.tasks[0].train == 18


@pytest.mark.parametrize("missing", ["nowhere.yaml", None])
def test_a_recipe_that_cannot_be_read_is_one_problem(missing: str | None, write_yaml: Callable[..., Path]) -> None:
    file = missing or write_yaml("model: [")
    assert len(stockpot.check(file).errors) == 1
