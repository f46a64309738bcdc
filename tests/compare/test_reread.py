"""A report says what the runs say, whatever was done to the files that repeat it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from stockpot.cli.report import report_command
from stockpot.comparisons.cells import contenders, plan
from stockpot.comparisons.reread import reread
from stockpot.comparisons.running import CellRunner
from stockpot.comparisons.summary import summarise_comparison, write_comparison
from stockpot.errors import StockpotError
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.runs.progress import Progress
from stockpot.training.job import Stop

pytestmark = pytest.mark.usefixtures("quick_pictures")  # what figures look like is tested in tests/report
VALUES: dict[str, Any] = {
    "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [8]}},
    "data": {"path": "digits", "limit": 4}, "tasks": [{"name": "a", "data": {"classes": [0, 1]}},
                                                     {"name": "b", "data": {"classes": [2, 3]}}],
    "compare": [{"name": "sequential"}, {"name": "joint"}], "seeds": [0, 1], "loop": "plain",
    "train": {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "comparison"
    recipe = validate(Recipe, VALUES, "here")
    running = CellRunner(recipe, path, Stop(), Progress())
    done = [(cell, results) for cell, results in running.run(plan(recipe, contenders(recipe))) if results is not None]
    write_comparison(summarise_comparison(recipe, done), path)
    return path


@pytest.fixture
def comparison(made: Path, tmp_path: Path) -> Path:
    copytree(made, tmp_path / "comparison")
    return tmp_path / "comparison"


def edited(file: Path, change: Callable[[Any], None]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_what_nobody_touched_is_told_without_a_doubt(comparison: Path) -> None:
    found = reread(comparison)
    written = json.loads((comparison / "comparison.json").read_text())
    assert found.doubts == []
    assert all(cell["digest"] for method in written["methods"].values() for cell in method["cells"])
    assert found.comparison.model_dump(mode="json") == written


def test_an_edited_comparison_is_named_and_not_believed(comparison: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def better(values: Any) -> None:
        values["methods"]["sequential"]["average_accuracy"]["mean"] = 0.987654
        values["sentences"] = ["Everything is well."]

    truth = reread(comparison).comparison.methods["sequential"].average_accuracy.mean
    edited(comparison / "comparison.json", better)
    found = reread(comparison)
    assert found.comparison.methods["sequential"].average_accuracy.mean == truth != 0.987654
    assert [doubt.partition(":")[0] for doubt in found.doubts] == ["comparison.json does not agree with the runs"]
    report_command([comparison], None)
    assert "Note: comparison.json does not agree with the runs" in capsys.readouterr().out
    page = (comparison / "report.html").read_text()
    assert "comparison.json does not agree with the runs" in page
    assert "0.988" not in page and "Everything is well" not in page


def test_a_changed_results_file_is_named(comparison: Path) -> None:
    def better(values: Any) -> None:
        values["scores"]["accuracy"]["matrix"][-1][0] = 0.987654

    file = comparison / "cells" / "joint" / "seed-1" / "results.json"
    edited(file, better)
    [doubt] = reread(comparison).doubts
    assert doubt.startswith(f"{file} does not agree with the run's journal")


def test_a_cut_journal_is_an_unfinished_run(comparison: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = comparison / "cells" / "joint" / "seed-0"
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"event": "task"' in line)
    (run / "journal.jsonl").write_text("".join(lines[:last]))
    with pytest.raises(StockpotError, match="joint/seed-0: unfinished: 1 of 2 tasks"):
        reread(comparison)
    report_command([run], None)
    said = capsys.readouterr().out
    assert "unfinished: 1 of 2 tasks" in said and "results.json does not agree with the run's journal" in said
    page = (run / "report.html").read_text()
    assert "unfinished: 1 of 2 tasks" in page and " after 1 of 2 tasks: " in page


def test_a_run_that_changed_since_is_refused_by_its_digest(comparison: Path) -> None:
    def other(values: Any) -> None:
        values["methods"]["joint"]["cells"][0]["digest"] = "0" * 16

    edited(comparison / "comparison.json", other)
    with pytest.raises(StockpotError, match=r"joint/seed-0: the run has changed since comparison\.json was written"):
        reread(comparison)


def test_an_old_comparison_without_digests_is_read_and_said_to_be_uncheckable(comparison: Path) -> None:
    def older(values: Any) -> None:
        for method in values["methods"].values():
            for cell in method["cells"]:
                del cell["digest"]
            for key in ("controls", "stored_model_bytes", "stored_statistics_bytes"):
                del method[key]

    edited(comparison / "comparison.json", older)
    [doubt] = reread(comparison).doubts
    assert "no digests of 4 runs" in doubt and "cannot be checked" in doubt
