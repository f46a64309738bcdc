"""`stockpot whatif`: what it writes, what it prints, and what it refuses in one line."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from stockpot.comparisons.whatif import OPTIMISTIC, swept
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.report.formatting import opening
from stockpot.report.whatif_tables import valued
from stockpot.results import WhatIf
from stockpot.runs.actions import continue_run, create_run
from stockpot.runs.folder import RunFolder

Command = Callable[..., Any]
BASE: dict[str, Any] = {
    "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [8]}},
    "data": {"path": "digits", "limit": 4},
    "tasks": [{"name": name, "data": {"classes": classes}} for name, classes in
              (("first", [0, 1, 2]), ("second", [3, 4, 5]), ("third", [6, 7]))],
    "method": {"name": "sequential"},
    "loop": "plain",
    "train": {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "use_cpu": True},
}  # fmt: skip


def learn(path: Path, unfinished: bool = False, allow_code: bool = False, **changes: Any) -> Path:
    recipe = validate(Recipe, {**BASE, **changes}, "here")
    create_run(recipe, recipe.method, 0, path)
    if not unfinished:
        continue_run(path, allow_code=allow_code)
    return path


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sequential run; tests must not change it."""
    return learn(tmp_path_factory.mktemp("whatif") / "run")


def test_it_writes_numbers_page_and_figures_and_leaves_the_run_alone(
    learnt: Path, stockpot: Command, tmp_path: Path
) -> None:
    before = tree(learnt)
    done = stockpot("whatif", learnt, "--points", 3, "-o", tmp_path / "out", "--threads", 1)
    assert done.code == 0, done.err
    assert tree(learnt) == before
    found = WhatIf.model_validate_json((tmp_path / "out" / "whatif.json").read_text())
    assert list(found.methods) == list(swept()) and found.run == "run"
    assert {name: len(method.points) for name, method in found.methods.items()} == dict.fromkeys(swept(), 3) | {
        "soup": 1
    }

    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert OPTIMISTIC in page and "post-hoc" in page and page.count("<svg") == 2
    for figure in ("past-against-newest", "average-over-strength"):
        assert (tmp_path / "out" / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(tmp_path / "out" / "figures" / f"{figure}.svg")

    assert done.err == "26 merged models to evaluate\n"
    table = done.out.split("Note: ")[0].splitlines()
    assert "optimistic" in done.out and len(table) > 9 and max(map(len, table)) <= 80
    shown = re.search(r'id="fig1-spec">(.*?)</script>', page)
    assert shown is not None
    drawn = {
        row["name"] for layer in json.loads(shown[1])["layer"] if "data" in layer for row in layer["data"]["values"]
    }
    assert drawn == {"plain fine-tuning", "start model"}
    curves = {row["name"] for row in json.loads(shown[1])["data"]["values"]}
    for name, method in found.methods.items():
        point = method.points[method.best]
        average = point.metrics.average_accuracy
        assert average == max(p.metrics.average_accuracy or 0 for p in method.points)
        knees = [] if method.knee is None else [valued(method, method.points[method.knee])]
        in_legend = [label for label in curves if label.startswith(opening(name))]
        assert re.findall(r", knee ([αλ] = [\d.]+)$", "\n".join(in_legend), re.MULTILINE) == knees
        line = next(line for line in table if line.strip().startswith(opening(name)))
        assert f"{average:.3f}" in line
        assert ("post-hoc" in line) == (not point.exact[-1])


def test_methods_are_chosen_and_the_folder_is_the_runs_own(learnt: Path, stockpot: Command, tmp_path: Path) -> None:
    run = Path(shutil.copytree(learnt, tmp_path / "run"))
    before = tree(run)
    done = stockpot("whatif", run, "--methods", "soup, wise_ft", "--points", 2)
    assert done.code == 0, done.err
    assert {path: content for path, content in tree(run).items() if not path.startswith("whatif")} == before
    first = (run / "whatif" / "whatif.json").read_bytes()
    assert list(WhatIf.model_validate_json(first).methods) == ["soup", "wise_ft"]
    assert "MagMax" not in done.out
    assert stockpot("whatif", run, "--methods", "soup,wise_ft", "--points", 2).code == 0
    assert (run / "whatif" / "whatif.json").read_bytes() == first
    assert stockpot("resume", run).code == 0  # the run is one still


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": {"name": "wise_ft"}},
            r"a run of 'wise_ft', whose averages, merges or penalties are in its checkpoints",
        ),
        ({"keep": "needed"}, r"the models of its earlier tasks are gone \(keep: needed\)"),
        ({"tasks": BASE["tasks"][:1]}, r"the run has one task.*stockpot add"),
        ({"unfinished": True}, r"the run is not finished; continue it with `stockpot resume"),
    ],
)
def test_runs_that_cannot_tell_are_refused(
    changes: dict[str, Any], message: str, stockpot: Command, tmp_path: Path
) -> None:
    run = learn(tmp_path / "run", **changes)
    done = stockpot("whatif", run)
    assert done.code == 2
    assert re.match(rf"Error: {re.escape(str(run))}: .*{message}", done.err) and done.err.count("\n") == 1
    assert not (run / "whatif").exists()


def test_code_of_others_is_not_imported_unless_allowed(
    stockpot: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text(
        "from torch import nn\ndef net(num_labels): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_labels))\n"
    )
    monkeypatch.chdir(tmp_path)
    run = learn(tmp_path / "run", allow_code=True, model={"build": "theirs:net"})
    done = stockpot("whatif", run, "--methods", "soup")
    assert done.code == 2 and "theirs:net" in done.err and "--allow-code" in done.err
    assert stockpot("whatif", run, "--methods", "soup", "--allow-code").code == 0


def test_mistakes_are_one_line(learnt: Path, stockpot: Command, tmp_path: Path) -> None:
    done = stockpot("whatif", learnt, "--methods", "wise_ft,tie")
    assert done.code == 2 and "--methods: 'tie'" in done.err and "ties" in done.err and done.err.count("\n") == 1
    done = stockpot("whatif", learnt, "--methods", "sfa")
    assert done.code == 2 and "Methods that need no training: magmax, " in done.err
    done = stockpot("whatif", learnt, "--methods", "")
    assert done.code == 2 and "name at least one method" in done.err
    done = stockpot("whatif", learnt, "-o", learnt)
    assert done.code == 2 and "a run or a comparison is here" in done.err
    done = stockpot("whatif", tmp_path)
    assert done.code == 2 and "not a run folder" in done.err
    (tmp_path / "file").write_text("")
    done = stockpot("whatif", learnt, "-o", tmp_path / "file" / "out")
    assert done.code == 2 and done.err.count("\n") == 1


def test_a_model_that_was_changed_since_is_refused(learnt: Path, stockpot: Command, tmp_path: Path) -> None:
    run = Path(shutil.copytree(learnt, tmp_path / "run"))
    file = run / "tasks" / "02-second" / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = stockpot("whatif", run)
    assert done.code == 2 and "model.safetensors" in done.err


def test_readers_share_a_run_and_a_writer_keeps_them_out(learnt: Path, stockpot: Command, tmp_path: Path) -> None:
    run = RunFolder.open(learnt)
    run.journal.lock(shared=True)
    try:
        assert stockpot("whatif", learnt, "--methods", "soup", "-o", tmp_path / "out").code == 0
    finally:
        run.journal.close()
    run.journal.lock()
    try:
        done = stockpot("whatif", learnt, "--methods", "soup", "-o", tmp_path / "out")
        assert done.code == 2 and "another process is working on this run" in done.err
    finally:
        run.journal.close()
