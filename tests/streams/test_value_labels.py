"""Several labels or numbers of each example: the columns and lists that hold them, and what is wrong in them."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.errors import StockpotError
from stockpot.streams.classes import ClassifiedTask, open_labelled, split_classes
from stockpot.streams.images import open_images
from stockpot.streams.spec import DataSpec, TaskSpec
from stockpot.streams.text.labelled_texts import open_labelled_texts

LABELS, NUMBERS = "multi_label_classification", "regression"


def written(folder: Path, columns: dict[str, list[Any]], problem: Any, label: Any = None, **more: Any) -> DataSpec:
    many = len(next(iter(columns.values())))
    rows = [{"text": f"film {n}"} | {name: values[n] for name, values in columns.items()} for n in range(many)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSpec(
        path=str(folder / "data.jsonl"), text="text", label=label, problem_type=problem, test_split="train", **more
    )


@pytest.mark.parametrize(
    ("problem", "label", "columns", "names", "rows"),
    [
        (NUMBERS, None, {"label": [1, 2.5]}, ["label"], [[1], [2.5]]),
        (NUMBERS, ["x", "y"], {"x": [1, 2], "y": [0.5, None]}, ["x", "y"], [[1, 0.5], [2, nan]]),
        (NUMBERS, "at", {"at": [[1.0, 2.0], [3.0, 4.0]]}, ["at_0", "at_1"], [[1, 2], [3, 4]]),
        (LABELS, ["rude", "toxic"], {"toxic": [1, 0], "rude": [True, None]}, ["rude", "toxic"], [[1, 1], [nan, 0]]),
        (LABELS, "tags", {"tags": [["sad", "odd"], []]}, ["odd", "sad"], [[1, 1], [0, 0]]),
        (LABELS, None, {"labels": [[2, 0], [1]]}, ["0", "1", "2"], [[1, 0, 1], [0, 1, 0]]),
        (LABELS, "hot", {"hot": [[0, 1, 1], [0, 0, 0]]}, ["hot_0", "hot_1", "hot_2"], [[0, 1, 1], [0, 0, 0]]),
        (LABELS, "hot", {"hot": [[0.0, 1.0], [1.0, 0.0]]}, ["hot_0", "hot_1"], [[0, 1], [1, 0]]),
    ],
)
def test_labels_and_numbers_are_read_from_columns_and_lists(
    problem: str, label: Any, columns: dict[str, list[Any]], names: list[str], rows: list[list[float]], tmp_path: Path
) -> None:
    source = open_labelled_texts(written(tmp_path, columns, problem, label), "task 'a'")
    assert source.classes == names
    np.testing.assert_array_equal(source.train.labels, np.array(rows, np.float32))
    assert source.train.pick([1]) == ["film 1"]


@pytest.mark.parametrize(
    ("problem", "label", "columns", "message"),
    [
        (NUMBERS, "stars", {"stars": [1, "five"]}, r"row 1: data.label: column 'stars' holds 'five', not a number"),
        (NUMBERS, "stars", {"stars": [1.5, None]}, r"row 1: it has no label"),
        (NUMBERS, "stras", {"stars": [1, 2]}, r"there is no column 'stras'. Did you mean 'stars'\?"),
        (NUMBERS, None, {"stars": [1, 2]}, r"data.label: name the column, or a list of columns"),
        (NUMBERS, "at", {"at": [[1, 2], [3]]}, r"row 1: data.label: column 'at' holds 1 values, the first row 2"),
        (LABELS, ["a", "b"], {"a": [0, 2], "b": [0, 1]}, r"row 1: data.label: column 'a' holds 2, not 0 or 1"),
        (LABELS, "kind", {"kind": ["sad", "odd"]}, r"holds one class for each example, such as 'sad': drop"),
        (LABELS, "tags", {"tags": [[], []]}, r"holds empty lists only"),
        (LABELS, "tags", {"tags": [[-1], [0]]}, r"-1 is not a label: lists hold names, or numbers from 0"),
        (None, ["a", "b"], {"a": [0, 1], "b": [0, 1]}, r"an example has one class, .* set data.problem_type: multi"),
    ],
)
def test_what_is_not_a_label_is_refused_with_its_row(
    problem: Any, label: Any, columns: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StockpotError, match=message) as caught:
        open_labelled_texts(written(tmp_path, columns, problem, label), "task 'a'")
    assert "\n" not in str(caught.value)


def test_the_names_of_a_list_of_class_labels_are_those_of_the_data_set(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    features = datasets.Features({
        "image": datasets.Image(), "objects": datasets.List(datasets.ClassLabel(names=["cat", "dog", "owl"]))
    })  # fmt: skip
    table = {"image": [Image.new("L", (2, 2))] * 10, "objects": [[2, 0], []] * 5}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    source = open_images(DataSpec(path=str(tmp_path / "train.parquet"), label="objects", problem_type=LABELS), "here")
    assert source.classes == ["cat", "dog", "owl"]
    assert (len(source.train.labels), len(source.test.labels)) == (8, 2)  # a fifth is held out
    assert {tuple(row) for row in source.train.labels.tolist()} == {(1, 0, 1), (0, 0, 0)}
    assert source.train.pick([0])[0].size == (2, 2)


def test_a_task_has_the_examples_that_its_labels_are_known_of(tmp_path: Path) -> None:
    columns = {"a": [1, 0, None, 1, 0], "b": [0, 1, 1, None, 1], "c": [1, 1, 1, 1, 1]}
    data = written(tmp_path, columns, LABELS, ["a", "b", "c"])
    task = ClassifiedTask.open(data, TaskSpec(name="t", data=DataSpec(classes=["a"])))
    assert task.classes == ["a"] and task.indices("train").tolist() == [0, 1, 3, 4]
    tuned = ClassifiedTask.open(data, TaskSpec(name="t", data=DataSpec(classes=["a"], limit=4)), tuning=True)
    assert sorted([*tuned.indices("train"), *tuned.indices("test")]) == [0, 1, 3, 4]
    assert len(tuned.indices("test")) == 1
    assert [task.data.classes for task in split_classes(data, 2, None)] == [[0, 1], [2]]


def test_a_regression_has_no_classes_to_choose_or_to_split(tmp_path: Path) -> None:
    data = written(tmp_path, {"label": [1, 2]}, NUMBERS)
    with pytest.raises(StockpotError, match=r"tasks\.split: it cuts `data` by classes, and a regression has none"):
        split_classes(data, 1, None)
    with pytest.raises(StockpotError, match=r"data\.classes: a regression has none"):
        ClassifiedTask.open(data, TaskSpec(name="t", data=DataSpec(classes=[0])))
    assert open_labelled(data, "here").classes == ["label"]
