"""Data sets that are passed in Python: the same runs as from files, resumed with the same data alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

import stockpot
from stockpot.api.run_result import RunResult
from stockpot.errors import StockpotError
from stockpot.streams import classes, passed_data
from stockpot.streams.spec import DataSpec
from stockpot.streams.text.labelled_texts import open_labelled_texts
from stockpot.streams.text.text_source import open_text

DIGITS = load_digits()
PIXELS = np.round(DIGITS.images * (255 / 16)).astype(np.uint8)


class Pictures(Dataset[Any]):
    """Digits as a data set of torchvision: PIL images, with `targets` and `classes`; counts what is read."""

    def __init__(self, rows: slice, *, targets: bool = True) -> None:
        self.pixels, self.labels = PIXELS[rows], DIGITS.target[rows]
        self.classes = [str(name) for name in DIGITS.target_names]
        if targets:
            self.targets = self.labels.tolist()
        self.read = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        self.read += 1
        return Image.fromarray(self.pixels[row]), int(self.labels[row])


def table(rows: slice) -> datasets.Dataset:
    """The same as a table of `datasets`."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(name) for name in DIGITS.target_names])}
    )
    columns = {
        "image": [Image.fromarray(pixels) for pixels in PIXELS[rows]],
        "label": DIGITS.target[rows].tolist(),
    }
    return datasets.Dataset.from_dict(columns, features=features)


TRAIN, TEST = slice(0, 200), slice(200, 300)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new process knows."""
    monkeypatch.setattr(passed_data, "_passed", {})
    classes._open.cache_clear()


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


@pytest.fixture
def short(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without the controls, whose data are rotated, and with at most six examples of each class."""
    return {**recipe, "controls": [], "metrics": ["accuracy"], "data": {"limit": 6}}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("digits")
    table(TRAIN).to_parquet(folder / "train-00000-of-00001.parquet")
    table(TEST).to_parquet(folder / "test-00000-of-00001.parquet")
    yield folder


@pytest.fixture
def from_disk(on_disk: Path, short: dict[str, Any], tmp_path: Path) -> RunResult:
    values = {**short, "data": {"limit": 6, "path": on_disk}}
    return stockpot.run(values, output=tmp_path / "from-disk", progress=False)


def weights(run: RunResult) -> bytes:
    return (run.model_folder() / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: datasets.DatasetDict(train=table(TRAIN), test=table(TEST)), id="DatasetDict"),
        pytest.param(lambda: {"train": Pictures(TRAIN), "test": Pictures(TEST)}, id="torch"),
        pytest.param(
            lambda: {"train": Pictures(TRAIN, targets=False), "test": Subset(Pictures(TEST), range(100))}, id="Subset"
        ),
    ],
)  # fmt: skip
def test_the_bits_are_those_of_the_same_data_on_disk(
    data: Any, short: dict[str, Any], from_disk: RunResult, tmp_path: Path
) -> None:
    run = stockpot.run(short, data=data(), output=tmp_path / "run", progress=False)
    assert weights(run) == weights(from_disk)
    assert run.matrix(start=True).equals(from_disk.matrix(start=True))
    assert run.results.data["part-1"]["path"].startswith("memory:")
    assert run.results.head == from_disk.results.head
    assert "memory:" not in (run.model_folder() / "README.md").read_text().split("---")[1]  # no such name on the hub


def test_tensors_are_what_the_model_receives(short: dict[str, Any], tmp_path: Path) -> None:
    inputs, labels = torch.tensor(DIGITS.images[:300] / 16).float().flatten(1), torch.tensor(DIGITS.target[:300])
    parts = [TensorDataset(inputs[labels // 5 == half], labels[labels // 5 == half]) for half in (0, 1)]
    tasks = [{"name": name, "data": part} for name, part in zip(("low", "high"), parts, strict=True)]
    run = stockpot.run({**short, "tasks": tasks}, output=tmp_path / "run", progress=False)
    assert run.results.tasks == ["low", "high"]
    by_name = {**short, "tasks": [{"name": "low"}, {"name": "high"}]}
    data = dict(zip(("low", "high"), parts, strict=True))
    again = stockpot.run(by_name, data=data, output=tmp_path / "again", progress=False)
    assert weights(again) == weights(run)
    with pytest.raises(StockpotError, match=r"data: there is no task 'hihg'\. Did you mean 'high'\?"):
        stockpot.run(by_name, data={"low": parts[0], "hihg": parts[1]}, progress=False)
    with pytest.raises(StockpotError, match=r"data\.rotate turns images, and the data set gives tensors"):
        stockpot.run({**short, "data": {"path": parts[0], "rotate": 9.0}, "tasks": [{"name": "low"}]}, progress=False)


def test_a_run_goes_on_with_the_same_data_alone(short: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    data = {"train": Pictures(TRAIN), "test": Pictures(TEST)}
    run = stockpot.run(short, data=data, output=tmp_path / "run", progress=False)
    task = {"name": "third", "data": {"classes": [1, 2]}}
    forget(monkeypatch)
    assert stockpot.open(run.path).results == run.results
    with pytest.raises(StockpotError, match=r"passed in Python, and nothing here has its fingerprint, memory:\w{16}"):
        stockpot.add(run, task, progress=False)
    other = {"train": Pictures(TRAIN), "test": Pictures(slice(201, 301))}
    with pytest.raises(StockpotError, match="nothing here has its fingerprint"):
        stockpot.add(run, task, data=other, progress=False)
    same = {"train": Pictures(TRAIN), "test": Pictures(TEST)}
    longer = stockpot.add(run, task, data=[other, same], output=tmp_path / "branch", progress=False)
    assert longer.results.tasks == ["part-1", "part-2", "third"]
    forget(monkeypatch)
    assert stockpot.resume(longer, data=same, progress=False).results == longer.results


def test_texts_and_a_language_are_read_like_files(tmp_path: Path) -> None:
    lines = [f"the number {number} is {'even' if number % 2 == 0 else 'odd'}" for number in range(40)]
    rows = datasets.Dataset.from_dict({"text": lines})
    path = passed_data.pass_data(rows, "here")
    assert passed_data.splits_of(path, "here")["train"]["text"] == lines
    pairs = [(line, number % 2) for number, line in enumerate(lines)]
    texts = type("Texts", (), {"__len__": lambda _: 40, "__getitem__": lambda _, row: pairs[row]})()
    source = open_labelled_texts(DataSpec(path=passed_data.pass_data(texts, "here"), text="text"), "here")
    assert (source.classes, source.facts["train"], source.facts["test"]) == (["0", "1"], 36, 4)
    assert open_text(DataSpec(path=path), "here").facts["train"] == 36


def test_a_fingerprint_is_of_the_content() -> None:
    path = passed_data.pass_data(table(TRAIN), "here")
    assert passed_data.pass_data(table(TRAIN).with_format("torch"), "here") == path
    relabelled = table(TRAIN).map(lambda row: {"label": (row["label"] + 1) % 10})
    assert passed_data.pass_data(relabelled, "here") != path
    assert passed_data.pass_data({"train": table(TRAIN), "test": table(TEST)}, "here") != path
    pictures = Pictures(TRAIN)
    known = passed_data.pass_data(pictures, "here")
    assert pictures.read < 60  # `targets` were checked on a few items, not read from all
    pictures.pixels = pictures.pixels[::-1]
    assert passed_data.pass_data(pictures, "here") != known
    wrong = Pictures(TRAIN)
    wrong.targets = [0] * len(wrong)  # not what its items say
    assert passed_data.pass_data(wrong, "here") == known

    class Augmented(Pictures):
        def __getitem__(self, row: int) -> tuple[Any, int]:
            return torch.randn(1, 8, 8), int(self.labels[row])

    assert passed_data.pass_data(Augmented(TRAIN), "here") == passed_data.pass_data(Augmented(TRAIN), "here")


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


def listed(*items: Any) -> Any:
    return type("Listed", (), {"__len__": lambda _: len(items), "__getitem__": lambda _, row: items[row]})()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Endless(), "Endless can only be read from front to end, and a run reads any row"),
        (datasets.Dataset.from_dict({"image": []}), "part 'train': it is empty"),
        (listed((torch.zeros(3), 0.5)), r"the label of item 0: 0\.5 is not a class but a number"),
        (listed((torch.zeros(3), -1)), "the label of item 0: -1 is not a class number"),
        (listed((torch.zeros(3, dtype=torch.uint8), 1)), r"tensor of item 0 holds torch\.uint8: it should hold floats"),
        (listed(torch.zeros(3)), "item 0 is not \\(input, label\\)"),
        (listed((torch.zeros(3), 0), (torch.zeros(3),)), "item 1 is not \\(input, label\\)"),
        (listed((3, 0)), "the input of item 0 is int: it should be a tensor of floats"),
        (7, "data: int is not a data set"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_one_line(data: Any, message: str, short: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=message) as error:
        stockpot.run(short, data=data, output=tmp_path / "run", progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_worker_processes_do_not_have_it(short: dict[str, Any], tmp_path: Path) -> None:
    data = {"train": Pictures(TRAIN), "test": Pictures(TEST)}
    with pytest.raises(StockpotError, match="data: its data set was passed in Python, where other processes cannot"):
        stockpot.compare(short, data=data, jobs=2, output=tmp_path / "out", progress=False)
    compared = stockpot.compare(short, data=data, output=tmp_path / "out", progress=False)
    assert list(compared.results.methods) == ["sequential", "joint"]
