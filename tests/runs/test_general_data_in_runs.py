"""`mix` in run folders: every loop and method, what is recorded, and where it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from toy import assert_same, differ

import stockpot
from stockpot.errors import StockpotError
from stockpot.methods import registry

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_head": 1, "n_layer": 1, "n_positions": 32}
TRAIN = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True}
WHOLE = ["replay"]


def digits(method: str, loop: str, mix: dict[str, Any] | None) -> dict[str, Any]:
    """Two tasks of five digits, of which the second has the first one's digits as general data."""
    return {
        "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [8]}},
        "data": {"path": "digits", "limit": 6},
        "tasks": [
            {"name": "low", "data": {"classes": [0, 1, 2, 3, 4]}},
            {"name": "high", "data": {"classes": [5, 6, 7, 8, 9]}, **({"mix": mix} if mix else {})},
        ],
        "method": {"name": method, **registry()[method].typical},
        "loop": loop,
        "train": {**TRAIN, "per_device_train_batch_size": 8},
    }


MIX = {"path": "digits", "classes": [0, 1], "limit": 4, "fraction": 0.25}


@pytest.mark.parametrize(
    "method", [name if name in WHOLE else pytest.param(name, marks=pytest.mark.thorough) for name in registry()]
)
def test_general_data_are_trained_on_by_every_method_alike_in_both_loops(method: str, tmp_path: Path) -> None:
    runs = {
        loop: stockpot.run(digits(method, loop, MIX), output=tmp_path / loop, progress=False)
        for loop in ("plain", "trainer")
    }
    weights = [load_file(run.path / "tasks/02-high/model/model.safetensors") for run in runs.values()]
    assert_same(*weights)
    first, second = (cost.steps for cost in runs["plain"].results.task_costs)
    past = {"joint": 30, "replay": int(30 * registry()["replay"].typical["fraction"] + 0.5)}.get(method, 0)
    general = int((30 + past) / 3 + 0.5)
    assert (first, second) == (2 * 4, 2 * -(-(30 + past + general) // 8))
    seen = [(cost.examples, cost.tokens) for cost in runs["plain"].results.task_costs]
    assert seen == [(2 * 30, 0), (2 * (30 + past + general), 0)]
    assert runs["plain"].results.data["high"]["mix"]["train"] == 8
    assert "mix" not in runs["plain"].results.data["low"]
    assert "task 'high': 25.0% of every epoch are general data, of 8 images from digits" in runs["plain"].results.notes
    without = stockpot.run(digits(method, "plain", None), output=tmp_path / "without", progress=False)
    assert differ(load_file(without.path / "tasks/02-high/model/model.safetensors"), weights[0])


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    """Two tasks of texts; general texts are mixed into both, but the second says otherwise."""
    for name, many in (("law", 12), ("sums", 12), ("general", 9)):
        rows = [json.dumps({"text": f"{name} {number} " * 3}) for number in range(many)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    return {
        "model": {"config": GPT2, "tokenizer": {"train": 300}},
        "scenario": "language",
        "data": {"packing": False},
        "mix": {"path": str(tmp_path / "general.jsonl"), "fraction": 0.5},
        "tasks": [
            {"name": "law", "data": {"path": str(tmp_path / "law.jsonl")}},
            {"name": "sums", "data": {"path": str(tmp_path / "sums.jsonl")}, "mix": {"fraction": 0}},
        ],
        "loop": "plain",
        "train": TRAIN,
    }


def test_texts_have_general_data_which_an_added_task_inherits(texts: dict[str, Any], tmp_path: Path) -> None:
    run = stockpot.run(texts, output=tmp_path / "run", progress=False)
    # 12 texts, of which one is held out; as many general ones; all nine of those are there to be trained on.
    costs = run.results.task_costs
    assert [(cost.steps, cost.examples) for cost in costs] == [(2 * -(-22 // 4), 44), (2 * -(-11 // 4), 22)]
    assert run.results.data["law"]["mix"]["train"] == 9
    assert "mix" not in run.results.data["sums"]
    note = next(note for note in run.results.notes if "general" in note)
    assert note.startswith("task 'law': 50.0% of every epoch are general data, of 9 sequences from ")
    added = stockpot.add(run, {**texts["tasks"][0], "name": "law-again"}, progress=False)
    assert added.results.task_costs[2].steps == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": {"path": "digits", "fraction": 1.0}}, r"mix\.fraction: should be less than 1"),
        ({"mix": {"fraction": 0.5}}, "mix: path is missing: it names the data to mix in"),
        ({"mix": {"path": "digits", "fraction": 0.5}}, "no task up to this one has the class '5'"),
        ({"mix": MIX, "scenario": "task-incremental"}, "a task-incremental head has no rows for general data"),
        ({"controls": [{"name": "c", "mix": MIX}]}, "controls: 'c': mix: a control is never trained on"),
    ],
)
def test_general_data_that_do_not_fit_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=message):
        stockpot.run({**digits("sequential", "plain", None), **change}, output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
