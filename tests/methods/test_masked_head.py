"""`head: masked`: rows for all classes from the start, and a loss over those of the classes seen so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiers import crossed
from toy import LOOPS, assert_close, assert_same, config, examples, learn, network

from stockpot.batches.examples import TrainingData
from stockpot.errors import StockpotError
from stockpot.methods import build, registry
from stockpot.methods.shared.merged import Merged
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.runs.actions import continue_run, create_run
from stockpot.streams.scenario import Rows
from stockpot.training.job import Job, batch_loss

MASK = torch.tensor([0, 0, -1, -1])  # two of the four classes are seen
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in registry()),
    *(("ewc", {"fisher": kind}) for kind in ("sample", "empirical", "predicted", "batched")),
    ("ewc", {"mode": "online"}),
    ("replay", {"loss": "der++"}),
    ("replay", {"mix": "batch"}),
]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_rows_of_classes_to_come_is_zero(smoothing: float, tmp_path: Path) -> None:
    model, own = network(), examples(0)
    job = Job(model, build(config("sequential")), TrainingData.of(own), {}, 0, tmp_path, owners=MASK)
    batch_loss(job, model, own.__getitems__([0, 1, 2, 3]), smoothing).backward()
    head = model[-1]
    assert isinstance(head, torch.nn.Linear) and head.weight.grad is not None and head.bias.grad is not None
    assert not head.weight.grad[2:].any() and not head.bias.grad[2:].any()
    assert head.weight.grad[:2].all() and head.bias.grad[:2].all()


@pytest.mark.parametrize(("variant", "loop"), crossed(VARIANTS, LOOPS), ids=str)
def test_no_method_moves_rows_of_classes_to_come(
    variant: tuple[str, dict[str, Any]], loop: str, tmp_path: Path
) -> None:
    """Two tasks of the same two classes, so that what the second keeps of the first is at work, too."""
    name, keys = variant
    learnt = learn(config(name, **keys), loop, tmp_path, tasks=[examples(0), examples(2)], owners=MASK)
    head = list(learnt.weights[0])[-2:]
    start, *after = ({key: weights[key] for key in head} for weights in learnt.weights)
    for weights in after:
        unseen, before = ({key: tensor[2:] for key, tensor in some.items()} for some in (weights, start))
        if issubclass(registry()[name], Merged):
            assert_close(unseen, before, 1e-12)
        else:
            assert_same(unseen, before)
        assert any((weights[key][:2] != start[key][:2]).any() for key in head)


@pytest.mark.parametrize("method", [("lwf", {}), ("replay", {"loss": "der++"})])
def test_a_mask_that_leaves_nothing_out_changes_nothing(method: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, keys = method
    runs = [
        learn(config(name, **keys), "plain", tmp_path / str(number), owners=owners)
        for number, owners in enumerate((None, torch.zeros(4, dtype=torch.long)))
    ]
    assert_same(runs[0].weights[-1], runs[1].weights[-1])


def test_the_classes_of_the_tasks_so_far_compete() -> None:
    rows = Rows.of("class-incremental", [("a", ["x", "y"]), ("b", ["y", "z"]), ("c", ["w"])])
    masks = [rows.owners(4, seen) for seen in (1, 2, 3)]
    assert [mask.tolist() for mask in masks if mask is not None] == [[0, 0, -1, -1], [0, 0, 0, -1], [0, 0, 0, 0]]
    assert rows.owners(4) is None


@pytest.mark.parametrize("loop", LOOPS)
def test_in_a_run_rows_are_trained_from_their_task_on(loop: str, digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = validate(Recipe, {**digits_recipe, "loop": loop, "head": "masked", "method": {"name": "lwf"}}, "here")
    create_run(recipe, recipe.method, 0, tmp_path / "run")
    results = continue_run(tmp_path / "run")
    assert "output rows: masked" in results.notes
    start, first, second = (
        load_file(folder / "model" / "model.safetensors")["3.bias"]
        for folder in sorted((tmp_path / "run/tasks").iterdir())
    )
    assert torch.equal(start[5:], first[5:]) and len(start) == 10
    assert (first[5:] != second[5:]).all()


@pytest.mark.parametrize("scenario", ["domain-incremental", "task-incremental", "language"])
def test_other_scenarios_have_no_classes_to_come(scenario: str, digits_recipe: dict[str, Any]) -> None:
    with pytest.raises(StockpotError, match=r"head: masked .* only class-incremental streams have"):
        validate(Recipe, {**digits_recipe, "scenario": scenario, "head": "masked"}, "here")
