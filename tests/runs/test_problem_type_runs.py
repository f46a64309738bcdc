"""Runs on several labels and on numbers, through folders: heads, scores, controls, tasks that are added."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, root_mean_squared_error
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import stockpot
from stockpot.errors import StockpotError
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe

WORDS = ["red", "green", "blue", "big", "small", "old", "new"]
BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
TRAIN = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "use_cpu": True}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of texts with a number, and columns of 0 and 1, an empty cell among them."""
    folder, draws = tmp_path_factory.mktemp("films"), random.Random(0)
    for name in ("first", "second"):
        with (folder / f"{name}.csv").open("w") as file:
            table = csv.writer(file)
            table.writerow(["text", "stars", "funny", "sad", "long"])
            for row in range(30):
                words = draws.choices(WORDS, k=4)
                marks = [int(word in words) for word in ("red", "big", "old")]
                table.writerow(
                    [" ".join(words), words.count("red") + 0.5 * row % 2, *marks[:2], marks[2] if row else ""]
                )
    return folder


def recipe(films: Path, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    tasks = [{"name": name, "data": {"path": str(films / f"{name}.csv")}} for name in ("first", "second")]
    model = {"config": BERT, "tokenizer": {"train": 300}}
    base = {"model": model, "data": {"text": "text", **data}, "tasks": tasks, "method": {"name": "sfa", "beta": 0.2}}
    return {**base, "train": TRAIN, "loop": "plain", **changes}


def answers(folder: Path, file: Path) -> tuple[dict[str, np.ndarray], np.ndarray, Any]:
    """The columns of the held-out rows of a file, and what the saved model gives for them by Transformers alone."""
    rows = list(csv.DictReader(file.open()))
    held_out = sorted(np.random.default_rng(0).permutation(len(rows))[: len(rows) // 10])
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        [rows[n]["text"] for n in held_out], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.numpy()
    columns = {key: np.array([float(rows[n][key] or "nan") for n in held_out]) for key in rows[0] if key != "text"}
    return columns, logits, model.config


def test_a_regression_shares_one_output_and_is_scored_downwards(films: Path, tmp_path: Path) -> None:
    data = {"label": "stars", "problem_type": "regression"}
    control = {"name": "general", "data": {"path": str(films / "first.csv")}}
    run = stockpot.run(
        recipe(films, data, controls=[control], metrics=["rmse", "mse", "mae", "r2", "pearson", "spearman"]),
        output=tmp_path / "run",
    )
    results = run.results
    assert results.scenario == "domain-incremental" and results.head == {"first": ["0"], "second": ["0"]}
    rmse = results.scores["rmse"]
    assert (rmse.unit, rmse.higher_is_better) == ("units of the label", False)
    columns, outputs, config = answers(run.path / "tasks" / "02-second" / "model", films / "first.csv")
    assert rmse.matrix[1][0] == pytest.approx(root_mean_squared_error(columns["stars"], outputs[:, 0]), rel=1e-5)
    assert results.scores["mse"].matrix[1][0] == pytest.approx(rmse.matrix[1][0] ** 2, rel=1e-9)
    assert rmse.controls["general"][-1] == rmse.matrix[1][0]
    assert (config.problem_type, config.num_labels) == ("regression", 1)
    assert results.metrics.forgetting == pytest.approx(rmse.matrix[1][0] - rmse.matrix[0][0])  # worse is positive
    with pytest.raises(StockpotError, match="multi_label_classification, but the run's is regression: its outputs"):
        other = {"path": str(films / "second.csv"), "label": ["sad"], "problem_type": "multi_label_classification"}
        stockpot.add(run, {"name": "other", "data": other}, output=tmp_path / "other")
    grown = stockpot.add(run, {"name": "third", "data": {"path": str(films / "second.csv")}}, output=tmp_path / "more")
    assert len(grown.results.scores["rmse"].matrix) == 3


def test_labels_that_come_task_by_task_get_rows_of_their_own(films: Path, tmp_path: Path) -> None:
    data = {
        "label": ["funny", "sad", "long"],
        "problem_type": "multi_label_classification",
        "path": str(films / "first.csv"),
    }
    tasks = [{"name": "a", "data": {"classes": ["funny", "long"]}}, {"name": "b", "data": {"classes": ["sad", "long"]}}]
    metrics = ["mean_average_precision", "micro_f1", "subset_accuracy"]
    for head in ("seen", "all"):
        run = stockpot.run(recipe(films, data, tasks=tasks, metrics=metrics, head=head), output=tmp_path / head)
        assert run.results.head == {"a": ["funny", "long"], "b": ["sad", "long"]}
        columns, outputs, config = answers(run.path / "tasks" / "02-b" / "model", films / "first.csv")
        assert config.id2label == {0: "funny", 1: "long", 2: "sad"}
        assert config.problem_type == "multi_label_classification"
        scored = [
            average_precision_score(columns[name], outputs[:, row])
            for name, row in (("sad", 2), ("long", 1))
            if columns[name].any()
        ]
        assert run.results.scores["mean_average_precision"].matrix[1][1] == pytest.approx(np.mean(scored))
        assert set(run.results.scores) == set(metrics)


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ({"problem_type": "regresion"}, {}, "problem_type: should be 'single_label_classification', 'multi"),
        ({"problem_type": "regression"}, {"scenario": "class-incremental"}, "a regression has no classes that"),
        ({"problem_type": "regression"}, {"scenario": "language"}, r"data\.problem_type: it is for classifiers"),
        ({"problem_type": "multi_label_classification"}, {"head": "masked"}, "head: masked leaves classes to come out"),
        ({"problem_type": "regression"}, {"train": {"label_smoothing_factor": 0.1}}, "it smooths the one class"),
        ({}, {"controls": [{"name": "c", "data": {"problem_type": "regression"}}], "scenario": "domain-incremental"},
         r"controls\.0\.data\.problem_type: regression, but single_label_classification in the first task"),
        ({"label": ["a", "a"], "problem_type": "regression"}, {}, "one column or more, each once"),
        ({"problem_type": "regression"}, {"model": {"config": {**BERT, "problem_type": "regression"}}},
         r"model\.config\.problem_type: say it in data\.problem_type"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said_before_anything_is_read(
    films: Path, data: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StockpotError, match=message) as caught:
        validate(Recipe, recipe(films, data, **changes), "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_a_score_of_another_problem_is_refused_with_those_that_there_are(films: Path, tmp_path: Path) -> None:
    values = recipe(films, {"label": "stars", "problem_type": "regression"}, metrics=["accuracy"])
    with pytest.raises(
        StockpotError, match=r"accuracy: .* for a classifier; .*problem_type: regression: mae, mse, pearson"
    ):
        stockpot.run(values, output=tmp_path / "run")


@pytest.mark.thorough
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_a_comparison_ranks_by_the_direction_of_its_score(
    problem: str, films: Path, tmp_path: Path, quick_pictures: Callable[..., Any]
) -> None:
    label: Any = "stars" if problem == "regression" else ["funny", "sad"]
    values = recipe(films, {"label": label, "problem_type": problem}, scenario="domain-incremental")
    comparison = stockpot.compare({**values, "compare": [{"name": "ewc"}, {"name": "replay"}]}, output=tmp_path / "c")
    better = comparison.results.higher_is_better
    assert better == (problem != "regression")
    assert comparison.report().is_file()
