"""One variant of the Fisher for all tasks of a run, chosen before it from the whole stream's head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import config

from stockpot.batches.examples import TensorExamples
from stockpot.importance.fisher import FisherKind, _directions, fisher
from stockpot.methods import ewc, fisher_average
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.results import Results
from stockpot.runs.actions import add_task, continue_run, create_run
from stockpot.streams.scenario import mask_rivals
from stockpot.streams.spec import DataSpec, TaskSpec

METHODS = {"ewc": ewc, "fisher_average": fisher_average}


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of whose head four rows are the most that an exact Fisher is taken of."""

    def four(rows: int, language: bool = False) -> FisherKind:
        return "exact" if rows <= 4 and not language else "sample"

    monkeypatch.setattr(METHODS[request.param], "default_kind", four)
    return str(request.param)


@pytest.fixture
def kinds(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the method asked for, in order."""
    asked: list[str] = []

    def noted(model: Any, examples: Any, kind: FisherKind, **more: Any) -> Any:
        asked.append(kind)
        return fisher(model, examples, kind, **more)

    monkeypatch.setattr(METHODS[name], "fisher", noted)
    return asked


def run(name: str, recipe: dict[str, Any], path: Path, tasks: int) -> Results:
    split = [{"name": f"t{k}", "data": {"classes": [2 * k, 2 * k + 1]}} for k in range(tasks)]
    changes = {"loop": "plain", "head": "seen", "tasks": split, "method": {"name": name}}
    checked = validate(Recipe, {**recipe, **changes}, "here")
    create_run(checked, checked.method, 0, path)
    return continue_run(path)


def test_a_large_head_is_sampled_while_few_of_its_classes_are_seen(
    name: str, kinds: list[str], digits_recipe: dict[str, Any], tmp_path: Path
) -> None:
    results = run(name, digits_recipe, tmp_path / "run", 3)
    assert kinds == ["sample"] * 3
    assert results.method["fisher"] == "sample"


def test_a_stream_that_grows_keeps_the_variant_of_its_run(
    name: str, kinds: list[str], digits_recipe: dict[str, Any], tmp_path: Path
) -> None:
    run(name, digits_recipe, tmp_path / "run", 2)
    add_task(tmp_path / "run", TaskSpec(name="late", data=DataSpec(classes=[4, 5])))
    results = continue_run(tmp_path / "run")
    assert kinds == ["exact"] * 3
    assert results.method["fisher"] == "exact"


@pytest.mark.parametrize("method", METHODS)
def test_what_the_recipe_says_is_not_changed(method: str) -> None:
    assert config(method, fisher="empirical").decided(1000, language=True).fisher == "empirical"
    kinds = [
        config(method).decided(rows, language).fisher for rows, language in ((100, False), (101, False), (9, True))
    ]
    assert kinds == ["exact", "sample", "sample"]


def test_the_exact_fisher_takes_a_pass_for_each_row_that_competes() -> None:
    torch.manual_seed(0)
    model, small = (torch.nn.Linear(3, rows).double() for rows in (5, 2))
    small.load_state_dict({key: tensor[[1, 3]] for key, tensor in model.state_dict().items()})
    x, owners = torch.randn(7, 3).double(), torch.tensor([0, 1, 0, 1, 2])
    given, alone = TensorExamples(x, torch.tensor([1, 3, 3, 1, 1, 3, 1])), TensorExamples(x, torch.tensor([0] * 7))

    def masked(net: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return mask_rivals(net(batch["pixel_values"]), batch["labels"], owners)

    found = fisher(model, given, "exact", logits=masked)
    wanted = fisher(small, alone, "exact", logits=lambda net, batch: net(batch["pixel_values"]))
    for key, tensor in found.items():
        torch.testing.assert_close(tensor[[1, 3]], wanted[key])
        assert not tensor[[0, 2, 4]].any()
    batch = given.__getitems__([0, 1, 2])
    directions = _directions("exact", None, "single_label_classification")
    assert directions(masked(model, batch).detach(), batch).shape == (2, 3, 5)
