"""`stockpot compare`, killed between cells and inside one: it goes on, and finished cells are only read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from running import TASKS, Stockpot, recipe, same, write
from tiers import sample

RECIPE = recipe(
    loop="plain",
    tasks=TASKS[:2],
    compare=[{"name": "sfa"}, {"label": "half", "name": "wise_ft"}],
    seeds=[0, 1],
)
CELLS = [f"{label}/seed-{seed}" for seed in (0, 1) for label in ("sequential", "sfa", "half", "joint")]


@pytest.fixture(scope="session")
def whole(stockpot: Stockpot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    file = write(folder / "recipe.yaml", RECIPE)
    done = stockpot("compare", file, "-o", folder / "out", root=folder / "out")
    assert done.code == 0, done.err
    return folder / "out"


def scores(folder: Path) -> Any:
    """What comparison.json says, but for seconds and bytes, and the digests of journals, which hold both."""

    def measured(value: Any) -> Any:
        if isinstance(value, list):
            return [measured(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        spent = ("seconds", "bytes", "sentences", "digest")
        return {key: measured(entry) for key, entry in value.items() if not key.endswith(spent)}

    return measured(json.loads((folder / "comparison.json").read_text(encoding="utf-8")))


def finished(folder: Path) -> dict[str, tuple[str, int]]:
    """Cells of which all tasks are learnt → hash and time of their journals."""
    found = {}
    for cell in CELLS:
        file = folder / "cells" / cell / "journal.jsonl"
        if file.is_file() and file.read_bytes().count(b'{"event": "task"') == 2:
            found[cell] = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns
    return found


FAULTS = [
    ({"do": "kill", "kind": "append", "path": "sfa/seed-1", "at": 1}, 5),  # at the first line of a cell
    ({"do": "kill", "kind": "mkdir", "path": "half/seed-0", "at": 1}, 2),  # between two cells
    ({"do": "kill", "kind": "step", "at": 20}, 1),
    ({"do": "kill", "kind": "step", "at": 60}, 3),
    ({"do": "term", "kind": "step", "at": 40}, 2),
]


@pytest.mark.parametrize(
    ("fault", "cells"),
    sample(FAULTS),
    ids=str,
)
def test_it_goes_on_where_it_was_stopped(
    stockpot: Stockpot, whole: Path, tmp_path: Path, fault: dict[str, Any], cells: int
) -> None:
    file, folder = write(tmp_path / "recipe.yaml", RECIPE), tmp_path / "out"
    done = stockpot("compare", file, "-o", folder, root=folder, fault=fault)
    assert done.code == (-9 if fault["do"] == "kill" else 143), done.err
    before = finished(folder)
    assert list(before) == CELLS[:cells]
    assert not (folder / "comparison.json").exists()
    done = stockpot("compare", file, "-o", folder, root=folder)
    assert done.code == 0, done.err
    after = finished(folder)
    assert list(after) == CELLS
    assert {cell: after[cell] for cell in before} == before
    for cell in CELLS:
        same(folder / "cells" / cell, whole / "cells" / cell)
    assert scores(folder) == scores(whole)


def test_a_finished_comparison_is_only_read(stockpot: Stockpot, whole: Path) -> None:
    before = finished(whole)
    done = stockpot("compare", whole.parent / "recipe.yaml", "-o", whole, root=whole)
    assert done.code == 0, done.err
    assert finished(whole) == before


def test_a_full_disk_stops_it_and_it_goes_on(stockpot: Stockpot, whole: Path, tmp_path: Path) -> None:
    file, folder = write(tmp_path / "recipe.yaml", RECIPE), tmp_path / "out"
    fault = {"do": "full", "kind": "tensors", "path": "half/seed-0", "at": 3, "lasting": True}
    done = stockpot("compare", file, "-o", folder, root=folder, fault=fault)
    assert done.code == 2
    assert "the disk is full" in done.err
    assert stockpot("compare", file, "-o", folder, root=folder).code == 0
    assert scores(folder) == scores(whole)


def test_a_cell_of_another_recipe_is_left_alone(stockpot: Stockpot, whole: Path, tmp_path: Path) -> None:
    before = finished(whole)
    changed = {**RECIPE, "train": {**RECIPE["train"], "learning_rate": 1e-3}}
    file = write(tmp_path / "recipe.yaml", changed)
    done = stockpot("compare", file, "-o", whole, root=whole)
    assert done.code == 2
    assert "this cell was run from another recipe" in done.error
    assert finished(whole) == before
