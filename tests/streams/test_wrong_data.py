"""Data of another kind are refused with the right reason: measured values, several labels, texts for images, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.errors import StockpotError
from stockpot.streams.images import open_images
from stockpot.streams.spec import DataSpec
from stockpot.streams.text.labelled_texts import open_labelled_texts
from stockpot.streams.text.text_source import open_text


def rows(folder: Path, labels: list[Any], name: str = "data.jsonl") -> DataSpec:
    text = "".join(json.dumps({"text": f"film {n}", "label": label}) + "\n" for n, label in enumerate(labels))
    (folder / name).write_text(text)
    return DataSpec(path=str(folder / name), text="text")


def refusal(opened: Callable[[DataSpec, str], Any], data: DataSpec) -> str:
    with pytest.raises(StockpotError) as caught:
        opened(data, "task 'a'")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0.5, 1.5] * 10,
            "column 'label': 0.5 is not a class but a number: to learn numbers, set data.problem_type: regression",
        ),
        (
            [[0, 1], [1]] * 10,
            "row 0: data.label: column 'label': its labels are lists: where an example may have several labels",
        ),
        ([10**9, 0] * 10, "data.label: column 'label': 1000000000 is not a class number"),
        ([-5, 0] * 10, "data.label: column 'label': -5 is not a class number"),
        ([None, 1] * 10, "row 0: it has no label"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_the_reason(
    labels: list[Any], message: str, tmp_path: Path
) -> None:
    assert message in refusal(open_labelled_texts, rows(tmp_path, labels))


@pytest.mark.parametrize("label", [0.5, [0, 1]])
def test_so_are_those_of_images(label: Any, tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    features = datasets.Features({
        "image": datasets.Image(),
        "label": datasets.Value("float64") if isinstance(label, float) else datasets.List(datasets.Value("int64")),
    })  # fmt: skip
    table = {"image": [Image.new("L", (2, 2))] * 4, "label": [label] * 4}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    reason = "regression" if isinstance(label, float) else "its labels are lists"
    assert reason in refusal(open_images, DataSpec(path=str(tmp_path / "train.parquet")))


def test_true_and_false_are_two_classes(tmp_path: Path) -> None:
    source = open_labelled_texts(rows(tmp_path, [True, False] * 10), "task 'a'")
    assert source.classes == ["False", "True"]
    assert set(source.train.labels.tolist()) == {0, 1}


def test_a_column_of_text_is_not_taken_for_images(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for file in ("rev.csv", "folder/train.csv"):
        (tmp_path / file).write_text("text,label\n" + "good,1\nbad,0\n" * 10)
    for path in ("rev.csv", "folder"):
        refused = refusal(open_images, DataSpec(path=str(tmp_path / path)))
        assert "holds texts (text), not images: to classify them, name their column with data.text" in refused
        assert "scenario: language" in refused


@pytest.mark.parametrize("name", ["rev.csv", "rev.CSV", "rev.tsv", "rev.json", "rev.jsonl", "rev.parquet"])
def test_a_file_is_a_data_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = {"text": ["good", "bad"] * 10, "label": [1, 0] * 10}
    monkeypatch.chdir(tmp_path)
    match name.rpartition(".")[2].lower():
        case "parquet":
            datasets.Dataset.from_dict(table).to_parquet(name)
        case "json":
            Path(name).write_text(json.dumps([{"text": t, "label": n} for t, n in zip(*table.values(), strict=True)]))
        case "jsonl":
            rows(tmp_path, table["label"], name)
        case kind:
            mark = "\t" if kind == "tsv" else ","
            Path(name).write_text(f"text{mark}label\n" + f"good{mark}1\nbad{mark}0\n" * 10)
    for path in (name, f"./{name}", str(tmp_path / name)):
        assert open_labelled_texts(DataSpec(path=path, text="text"), "here").classes == ["0", "1"]
    assert open_text(DataSpec(path=name, text="text"), "here").facts["train"] == 18


def test_pictures_in_a_file_are_a_data_set_too(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    table = {"image": [Image.new("L", (2, 2), n) for n in range(20)], "label": [0, 1] * 10}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "pictures.parquet")
    assert open_images(DataSpec(path=str(tmp_path / "pictures.parquet")), "here").classes == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("book.xlsx", "files that end in '.xlsx' are not supported; convert it to one of .jsonl, .json, .csv"),
        ("nowhere.csv", "nowhere.csv: there is no such file"),
    ],
)
def test_a_file_that_is_not_read_is_named(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.xlsx").write_bytes(b"PK")
    for opened in (open_images, open_labelled_texts, open_text):
        assert message in refusal(opened, DataSpec(path=path, text=None if opened is open_images else "text"))


def test_labels_of_words_boxes_and_pixels_are_named_as_such(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    words = {"tokens": [["a", "b"], ["c"]], "tags": [[0, 1], [0]]}
    datasets.Dataset.from_dict(words).to_parquet(tmp_path / "words.parquet")
    data = DataSpec(path=str(tmp_path / "words.parquet"), text="tokens", label="tags", test_split="train")
    assert "a label for every word of 'tokens': token classification is not supported" in refusal(
        open_labelled_texts, data
    )
    picture = Image.new("L", (2, 2))
    for name, label, reason in (
        ("boxes", {"bbox": [[0, 0, 1, 1]], "category": [1]}, "boxes (bbox): object detection is not supported"),
        ("mask", picture, "its labels are images: segmentation is not supported"),
    ):
        table = datasets.Dataset.from_dict({"image": [picture] * 4, "label": [label] * 4})
        table.cast_column("image", datasets.Image()).to_parquet(tmp_path / f"{name}.parquet")
        data = DataSpec(path=str(tmp_path / f"{name}.parquet"), image="image", label="label")
        assert reason in refusal(open_images, data)


def test_audio_is_named_as_such() -> None:
    import datasets

    from stockpot.streams.hub import refuse_audio

    with pytest.raises(StockpotError, match="column 'speech' holds audio: speech is not supported"):
        refuse_audio(datasets.Features({"speech": datasets.Audio(), "text": datasets.Value("string")}), "task 'a'")
