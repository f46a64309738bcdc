"""`--json` and `stockpot report --format`: stdout has the numbers of the file and nothing else."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.methods import registry

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def twice(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a comparison in `out`, made of plain fine-tuning and joint training."""
    import stockpot

    out = tmp_path_factory.mktemp("twice") / "out"
    stockpot.compare(finished / "recipe.yaml", ["loop=plain"], methods=["sequential"], output=out, progress=False)
    return out


def test_a_run_as_json_is_its_results(finished: Path, stockpot: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = stockpot("run", finished / "recipe.yaml", "loop=plain", "seeds=[3, 4]", "-o", run, "--json")
    assert done.code == 0
    assert json.loads(done.out) == json.loads((run / "results.json").read_text())
    assert done.out == (run / "results.json").read_text()
    assert "uses the first, 3." in done.err and f"Report: {run / 'report.html'}" in done.err  # what is said to people
    task = tmp_path / "task.yaml"
    task.write_text("{name: tilted, data: {classes: [0, 1], rotate: 20}}")
    assert stockpot("add", run, task, "--json").out == (run / "results.json").read_text()
    assert stockpot("resume", run, "--json").out == (run / "results.json").read_text()


def test_a_comparison_as_json_is_its_file(finished: Path, twice: Path, stockpot: Command) -> None:
    done = stockpot("compare", finished / "recipe.yaml", "loop=plain", "--methods", "sequential", "-o", twice, "--json")
    assert done.code == 0, done.err
    assert done.out == (twice / "comparison.json").read_text()
    assert stockpot("report", twice, "--format", "json").out == done.out


def test_a_shard_as_json_says_that_there_is_no_comparison_yet(
    finished: Path, stockpot: Command, tmp_path: Path
) -> None:
    done = stockpot("compare", finished / "recipe.yaml", "loop=plain", "--methods", "sequential", "--shard", "1/2",
                    "-o", tmp_path / "out", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["unfinished"].startswith("Shard 1/2 is done")


def test_a_sweep_as_json_is_its_file(twice: Path, stockpot: Command, tmp_path: Path) -> None:
    run = next((twice / "cells" / "sequential").iterdir())
    done = stockpot("whatif", run, "--methods", "soup", "--points", 2, "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.out == (tmp_path / "out" / "whatif.json").read_text()


def test_a_mistake_leaves_stdout_empty(finished: Path, stockpot: Command, tmp_path: Path) -> None:
    done = stockpot("run", finished / "recipe.yaml", "metod=1", "-o", tmp_path / "run", "--json")
    assert (done.code, done.out) == (2, "")
    assert "metod: unknown key" in done.err


def test_methods_and_rules_as_json(stockpot: Command) -> None:
    methods = {method["name"]: method for method in json.loads(stockpot("methods", "--json").out)}
    assert list(methods) == list(registry())
    sfa = methods["sfa"]
    assert {parameter["name"]: parameter["default"] for parameter in sfa["parameters"]}["beta"] == 0.25
    assert sfa["title"] == registry()["sfa"].title and sfa["role"] == "rival" and sfa["equation"]
    assert json.loads(stockpot("methods", "sfa", "--json").out) == [sfa]
    rules = {rule["name"]: rule for rule in json.loads(stockpot("rules", "--json").out)}
    assert {"linear", "ties", "greedy_soup"} <= set(rules)
    assert rules["slerp"]["fewest_models"] == 2
    assert json.loads(stockpot("rules", "ties", "--json").out) == [rules["ties"]]
    assert stockpot("methods", "--json", "--markdown").code == 2


def test_a_report_is_exported_to_the_terminal_or_a_file(
    finished: Path, twice: Path, stockpot: Command, tmp_path: Path
) -> None:
    results = json.loads((finished / "run" / "results.json").read_text())
    rows = list(csv.DictReader(stockpot("report", finished / "run", "--format", "csv").out.splitlines()))
    last = [row for row in rows if row["after"] == "part-2" and row["kind"] == "task"]
    values = [float(row["value"]) if row["value"] else None for row in last]
    assert values == results["scores"]["accuracy"]["matrix"][1]
    file = tmp_path / "table.tex"
    assert stockpot("report", twice, "--format", "latex", "-o", file).out == f"Wrote {file}\n"
    assert r"\toprule" in file.read_text() and "joint (ceiling)" in file.read_text()
    assert "| after | part-1 | part-2 |" in stockpot("report", finished / "run", "--format", "md").out
    assert len(json.loads(stockpot("report", finished / "run", finished / "run", "--format", "json").out)) == 2


def test_what_a_reader_must_know_of_an_export_is_on_stderr(finished: Path, stockpot: Command, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", run := tmp_path / "run")
    (run / "results.json").write_text("{}")
    done = stockpot("report", run, "--format", "json")
    assert json.loads(done.out) == json.loads((finished / "run" / "results.json").read_text())
    assert "does not agree with the run's journal" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "tex"), "--format: 'tex' is not one of csv, latex, json, md."),
        (("--format", "csv", "--json"), "--json prints what --format json does; give one of them."),
        (("--format", "csv", "-o", "."), ".: is a folder; with --format, -o names a file."),
    ],
)
def test_what_makes_no_sense_is_refused(
    flags: tuple[str, ...], message: str, finished: Path, stockpot: Command
) -> None:
    done = stockpot("report", finished / "run", *flags)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_report_writes_the_figures_as_pdf_too_and_prints_json(
    finished: Path, stockpot: Command, tmp_path: Path
) -> None:
    done = stockpot("report", finished / "run", "-o", tmp_path, "--json")
    assert done.out == (finished / "run" / "results.json").read_text()
    assert done.err == f"Report: {tmp_path / 'report.html'}\n"
    endings = ("png", "svg", "pdf")
    stems = [sorted(file.stem for file in (tmp_path / "figures").glob(f"*.{ending}")) for ending in endings]
    assert stems[0] == stems[1] == stems[2] != []
