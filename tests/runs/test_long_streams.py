"""A run of many tasks: what is done after each of them does not grow faster than their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stockpot.recipe.read import validate
from stockpot.recipe.resolve import resolve
from stockpot.recipe.schema import Recipe
from stockpot.runs import folder as module
from stockpot.runs.folder import RunFolder


def test_pruning_reads_the_recipe_once(
    digits_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits_recipe |= {"scenario": "domain-incremental", "tasks": [{"name": f"task-{n}"} for n in range(60)]}
    recipe = validate(Recipe, digits_recipe, "here")
    run = RunFolder.create(tmp_path / "run", resolve(recipe, recipe.method, 0), "sfa", {})
    for number in range(60):
        for place in (run.state(number), run.checkpoints(number)):
            place.mkdir(parents=True)
        run.journal.append({"event": "task", "index": number})
    read: list[str] = []

    def counted(model: Any, values: Any, source: str, **more: Any) -> Any:
        read.append(source)
        return validate(model, values, source, **more)

    monkeypatch.setattr(module, "validate", counted)
    fresh = RunFolder(tmp_path / "run")
    fresh.prune()
    assert len(read) == 1
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["60-task-59"]
    assert not (tmp_path / "run" / "checkpoints").exists()
    run.journal.append({"event": "added", "task": {"name": "more"}, "data": {}})
    assert [task.name for task in run.tasks][-1] == "more"  # what is remembered follows the journal
    run.journal.close()
