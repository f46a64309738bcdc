"""What the calls return: frames with the numbers of the files, models that load, pages, tables for a notebook."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import brought
import pytest
import torch
from safetensors.torch import load_file

import stockpot
from stockpot.api.comparison_result import ComparisonResult
from stockpot.api.notebook import MOST
from stockpot.api.run_result import RunResult
from stockpot.api.whatif_result import WhatIfResult
from stockpot.errors import StockpotError
from stockpot.evaluation.statistics import COST_NAMES, METRIC_NAMES


def values(frame: Any) -> list[list[float | None]]:
    """The rows of a frame, with None for NaN."""
    return [[None if isnan(cell) else cell for cell in row] for row in frame.to_numpy().tolist()]


def test_the_frames_of_a_run_have_the_numbers_of_its_file(finished: RunResult) -> None:
    written = json.loads((finished.path / "results.json").read_text())
    for name, scores in written["scores"].items():
        matrix = finished.matrix(name)
        assert list(matrix.columns) == list(matrix.index) == written["tasks"]
        assert values(matrix) == scores["matrix"]
        whole = finished.matrix(name, start=True)
        assert list(whole.index) == ["start", *written["tasks"]]
        assert values(whole) == [scores["initial"], *scores["matrix"]]
        rows = [list(row) for row in zip(*scores["controls"].values(), strict=True)]
        assert values(finished.control_scores(name)) == (rows or [[]] * 3)
    assert finished.matrix().equals(finished.matrix("accuracy"))
    assert finished.matrix().loc["part-2", "part-1"] == written["scores"]["accuracy"]["matrix"][1][0]
    assert finished.metrics.to_dict() == written["metrics"]
    assert finished.controls.loc["tilted"].to_dict() == written["controls"]["tilted"]
    assert finished.costs.loc["total"].to_dict() == written["costs"]
    assert finished.costs.loc["part-2"].to_dict() == written["task_costs"][1]
    assert finished.notes == written["notes"]
    with pytest.raises(StockpotError, match=r"there is no score 'never'\. Did you mean 'newer'\?"):
        finished.matrix("never")


def test_the_frames_of_a_comparison_have_the_numbers_of_its_file(compared: ComparisonResult) -> None:
    written = json.loads((compared.path / "comparison.json").read_text())["methods"]
    assert list(compared.metrics.index) == list(written)
    for label, summary in written.items():
        for frame, names in ((compared.metrics, METRIC_NAMES), (compared.costs, COST_NAMES)):
            assert list(dict.fromkeys(frame.columns.get_level_values(0))) == list(names)
            ends = [[summary[name][end] for name in names for end in ("mean", "low", "high")]]
            assert values(frame.loc[[label]]) == ends
        change = summary["controls"]["tilted"]["change"]
        assert compared.controls.loc[(label, "tilted"), ("change", "mean")] == change["mean"]
        runs = [compared.run(label, seed) for seed in (0, 1)]
        assert [run.results.metrics.average_accuracy for run in runs] == summary["average_accuracy"]["values"]
        assert [run.results for run in runs] == [stockpot.open(run.path).results for run in runs]
        mean = (runs[0].matrix("newer", start=True) + runs[1].matrix("newer", start=True)) / 2
        assert compared.matrix(label, "newer", start=True).equals(mean)
    for wrong in (lambda: compared.run("joint", 5), lambda: compared.matrix("joint", order=1)):
        with pytest.raises(StockpotError, match="'joint' has no run with"):
            wrong()
    with pytest.raises(StockpotError, match=r"there is no method 'joynt'\. Did you mean 'joint'\?"):
        compared.matrix("joynt")


def test_the_frames_of_a_sweep_have_the_numbers_of_its_file(merged: WhatIfResult, finished: RunResult) -> None:
    written = json.loads((merged.path / "whatif.json").read_text())["methods"]["wise_ft"]
    assert list(merged.metrics.index) == [("wise_ft", 0.0), ("wise_ft", 0.5), ("wise_ft", 1.0)]
    for point in written["points"]:
        row = merged.metrics.loc[("wise_ft", point["value"])]
        assert row["average_accuracy"] == point["metrics"]["average_accuracy"]
        assert row["exact"] == point["exact"][-1]
        assert values(merged.matrix("wise_ft", point["value"])) == point["scores"]["matrix"]
    assert values(merged.matrix("wise_ft")) == written["points"][written["best"]]["scores"]["matrix"]
    assert merged.matrix("wise_ft", start=True).loc["start"].equals(finished.matrix(start=True).loc["start"])
    with pytest.raises(StockpotError, match=r"wise_ft was not tried at 0\.3\. Known: 0\.0, 0\.5, 1\.0"):
        merged.matrix("wise_ft", 0.3)


def test_models_load_after_every_task(finished: RunResult, compared: ComparisonResult) -> None:
    for after, folder in (("start", "00-start"), ("part-1", "01-part-1"), (None, "02-part-2")):
        model = finished.model(after)
        assert not model.training
        saved = load_file(finished.path / "tasks" / folder / "model" / "model.safetensors")
        assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
        assert finished.model_folder(after) == finished.path / "tasks" / folder / "model"
    with pytest.raises(StockpotError, match=r"there is no task 'part1'\. Did you mean 'part-1'\?"):
        finished.model("part1")
    there = compared.run("wise_ft", 1).model().state_dict()
    assert all(torch.equal(there[name], tensor) for name, tensor in compared.model("wise_ft", 1).state_dict().items())


def test_a_model_that_was_not_kept_or_was_changed_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = stockpot.run(recipe, ["keep=needed"], output=tmp_path / "run", progress=False)
    with pytest.raises(StockpotError, match=r"the model after 'part-1' is gone \(keep: needed\)"):
        run.model("part-1")
    file = run.model_folder() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(StockpotError, match=r"model\.safetensors"):
        run.model()


def test_code_of_others_runs_only_where_it_is_allowed(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_network.py").write_text(
        "from torch import nn\n\n"
        "def build(num_labels):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_labels))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = stockpot.run({**recipe, "model": {"build": "their_network:build"}}, output=tmp_path / "run", progress=False)
    sys.modules.pop("their_network")
    for call in (run.model, lambda: stockpot.add(run, {"name": "next"}, output=tmp_path / "branch")):
        with pytest.raises(StockpotError, match="built by the code at 'their_network:build'; read it"):
            call()
    assert "their_network" not in sys.modules
    assert run.model(allow_code=True) is not None


def test_the_builder_beside_a_recipe_is_found_again(
    recipe: dict[str, Any], tmp_path: Path, write_yaml: Callable[..., Path]
) -> None:
    (tmp_path / "beside_network.py").write_text(
        "from torch import nn\n\n"
        "def build(num_labels):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_labels))\n"
    )
    file = write_yaml({**recipe, "model": {"build": "beside_network:build"}})
    with brought.forgotten("beside_network"):
        run = stockpot.run(file, output=tmp_path / "run", progress=False)
    with brought.forgotten("beside_network"):  # a new process, in another folder
        assert run.model(allow_code=True) is not None


@pytest.mark.usefixtures("quick_pictures")
def test_the_page_is_written_where_it_is_missing_or_old(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = stockpot.run(recipe, output=tmp_path / "run", progress=False)
    assert not (run.path / "report.html").exists()
    assert run.report() == run.path / "report.html"
    run.report().write_text("kept")
    assert run.report().read_text() == "kept"
    os.utime(run.report(), (0, 0))
    assert "part-2" in run.report().read_text()
    stockpot.add(run, {"name": "added-since", "data": {"classes": [0, 1]}}, progress=False)
    assert "added-since" in run.report().read_text()
    assert run.report(str(tmp_path / "elsewhere")).read_text() == run.report().read_text()


def test_a_notebook_shows_a_table(finished: RunResult, compared: ComparisonResult, merged: WhatIfResult) -> None:
    for shown, words in (
        (finished, ("sequential · seed 0", "part-2", "(tilted)", "average accuracy")),
        (compared, ("wise_ft", "joint (ceiling)", "no difference shown", "2 seeds × 1 order")),
        (merged, ("WiSE-FT", "plain fine-tuning", "optimistic")),
    ):
        page = shown._repr_html_()
        assert all(word in page for word in words), words
        assert str(shown.path) in page
        ElementTree.fromstring(page)  # well-formed
        assert "src=" not in page and "<script" not in page and "<style" not in page
        assert str(shown.path) in repr(shown) or shown is merged
        assert "\n" not in repr(shown)


def test_the_table_escapes_names_and_stays_small(finished: RunResult) -> None:
    count = 60
    scores = finished.results.scores["accuracy"]
    large = scores.model_copy(
        update={
            "matrix": [[0.5] * count] * count,
            "initial": [0.1] * count,
            "controls": {"<script>alert(1)</script>": [0.1] * (count + 1)},
        }
    )
    tasks = ["<b>&first", *(f"t{number}" for number in range(1, count))]
    results = finished.results.model_copy(update={"tasks": tasks, "scores": {"accuracy": large}, "label": "<i>"})
    page = RunResult(Path("<u>"), results)._repr_html_()
    tree = ElementTree.fromstring(page)
    assert {element.tag for element in tree.iter()} <= {
        "div", "b", "code", "table", "caption", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert "&lt;b&gt;&amp;first" in page and "&lt;i&gt;" in page
    assert len(tree.findall(".//tbody/tr")) == MOST + 1
    assert "61 rows, 61 columns; the report has all of them" in page
