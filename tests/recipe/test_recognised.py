"""A recipe whose data say what is missing in it: the scenario, and the columns of texts with classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.api.recipe_like import as_recipe
from stockpot.errors import StockpotError
from stockpot.recipe.recognised import Recognition
from stockpot.recipe.schema import Recipe

MODEL = {"config": {"model_type": "gpt2"}, "tokenizer": {"train": 300}}
CHATS = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n' * 4
REVIEWS = "review,label\n" + "good,1\nbad,0\n" * 10


def recognised(values: dict[str, Any]) -> tuple[Recipe, list[str]]:
    recognition = Recognition()
    return recognition.of_recipe(as_recipe({"model": MODEL, **values})), recognition.guesses


def test_chats_and_texts_without_classes_are_continued(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(CHATS)
    path = str(tmp_path / "chats.jsonl")
    recipe, guesses = recognised({"tasks": [{"name": "a", "data": {"path": path}}]})
    assert (recipe.scenario, recipe.kind) == ("language", "language")
    assert guesses == [
        f"{path}: scenario: language, since the data have no classes",
        f"{path}: read as chats: column `messages` holds lists of {{role, content}}",
    ]
    assert [score.title for score in recipe.measured] == ["loss", "bits_per_byte"]


def test_a_column_of_text_with_classes_is_classified_and_the_recipe_then_says_so(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(REVIEWS)
    path = str(tmp_path / "reviews.csv")
    recipe, guesses = recognised({"data": {"path": path}, "tasks": {"split": 1}})
    assert (recipe.scenario, recipe.kind) == ("class-incremental", "text")
    assert (recipe.data.text, recipe.data.label) == ("review", "label")
    assert guesses == [
        f"{path}: read as texts with classes: column `review` holds text, `label` its classes, 2 in 20 rows "
        "(to continue texts: scenario: language)"
    ]
    continued, guesses = recognised({"scenario": "language", "data": {"path": path}, "tasks": [{"name": "a"}]})
    assert continued.kind == "language"
    assert guesses == [f"{path}: read as texts: `review` is the only column of text, and all of it is learnt"]


def test_what_a_recipe_says_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(REVIEWS)
    data = {"path": str(tmp_path / "reviews.csv"), "text": "T: {review}", "label": "label"}
    said = as_recipe({"model": MODEL, "tasks": [{"name": "a", "data": data}], "scenario": "domain-incremental"})
    recognition = Recognition()
    assert recognition.of_recipe(said) is said
    assert recognition.guesses == []


def test_the_digits_and_models_of_code_are_left_alone(digits_recipe: dict[str, Any]) -> None:
    said = as_recipe(digits_recipe)
    assert Recognition().of_recipe(said) is said


def test_folders_of_texts_say_what_a_text_is(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("one\ntwo\n")
    recipe, guesses = recognised({"tasks": [{"name": "x", "data": {"path": str(tmp_path)}}]})
    assert recipe.tasks[0].data.each == "file"  # type: ignore[index]
    assert guesses[1] == f"{tmp_path}: read as one text a file: a folder of .txt files (each: line reads lines)"
    lines, _ = recognised({"tasks": [{"name": "x", "data": {"path": str(tmp_path), "each": "line"}}]})
    assert lines.tasks[0].data.each == "line"  # type: ignore[index]


def test_texts_do_not_fit_a_model_of_code(
    tmp_path: Path, digits_recipe: dict[str, Any], write_yaml: Callable[..., Path]
) -> None:
    (tmp_path / "reviews.csv").write_text(REVIEWS)
    values = {**digits_recipe, "data": {"path": str(tmp_path / "reviews.csv")}}
    with pytest.raises(StockpotError, match=r"model\.build: texts need a model of Transformers"):
        Recognition().of_recipe(as_recipe(write_yaml(values)))
