"""Every method in run folders: float32, real digits, models that go through the disk between tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load_file
from tiers import sample
from toy import LOOPS, Weights, assert_same, differ

from stockpot.methods import registry
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.results import Results
from stockpot.runs.actions import continue_run, create_run

METHODS: dict[str, dict[str, Any]] = {name: dict(method.typical) for name, method in registry().items()} | {
    # What the typical setting does not reach, and a float64 toy does not show.
    "l2": {"strength": 0.5, "new_strength": 0.1},
    "ties": {"trim": "tensor"},
    "dare": {"density": 0.7, "elect": True},
    "soup": {"mode": "chain", "continue_from": "merged"},
}
WISE_FT: dict[str, dict[str, Any]] = {"sfa": {"beta": 0.5, "p": 1.0}, "wise_ft": {"alpha": 0.5}}  # one method
Run = Callable[..., tuple[Results, list[Weights]]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], tuple[Results, list[Weights]]]:
    """The results and weights of a recipe's run; the same recipe is run once."""
    made: dict[str, tuple[Results, list[Weights]]] = {}

    def run_once(values: dict[str, Any]) -> tuple[Results, list[Weights]]:
        key = json.dumps(values, sort_keys=True)
        if key not in made:
            path = tmp_path_factory.mktemp("run") / "run"
            recipe = validate(Recipe, values, "here")
            create_run(recipe, recipe.method, 0, path)
            results = continue_run(path)
            folders = sorted((path / "tasks").iterdir())
            assert [folder.name for folder in folders] == ["00-start", "01-part-1", "02-part-2"]
            made[key] = results, [load_file(folder / "model" / "model.safetensors") for folder in folders]
        return made[key]

    return run_once


@pytest.fixture
def run(digits_recipe: dict[str, Any], runs: Callable[[dict[str, Any]], tuple[Results, list[Weights]]]) -> Run:
    """`run("sfa", loop="plain", head="seen")` → its results, and the weights at the start and after each task."""

    def learn(name: str, method: dict[str, Any] | None = None, **changes: Any) -> tuple[Results, list[Weights]]:
        keys = METHODS[name] if method is None else method
        return runs({**digits_recipe, "method": {"name": name, **keys}, "loop": "trainer", **changes})

    return learn


@pytest.mark.parametrize(("name", "head"), sample([(name, head) for name in METHODS for head in ("seen", "all")]))
def test_both_loops_leave_the_same_weights_and_the_same_matrix(name: str, head: str, run: Run) -> None:
    """Without run folders, test_every_method.py holds it for every method; the loops do not know the head."""
    (one, trainer), (other, plain) = (run(name, loop=loop, head=head) for loop in LOOPS)
    for weights, again in zip(trainer, plain, strict=True):
        assert_same(weights, again)
    assert one.scores == other.scores
    rows = {"all": [10, 10, 10], "seen": [5, 5, 10]}[head]
    assert [len(weights["3.weight"]) for weights in trainer] == rows
    assert (one.costs.averages, one.costs.steps) == (other.costs.averages, other.costs.steps)


@pytest.mark.parametrize("head", ["all", "seen"])
def test_methods_that_are_one_method_are_so_bitwise(head: str, run: Run) -> None:
    plain = run("sequential", head=head)[1]
    joint = run("joint", head=head)[1]
    assert_same(joint[1], plain[1])  # the first task is the same for all
    assert differ(joint[2], plain[2])
    sfa, wise_ft = (run(name, keys, head=head)[1][2] for name, keys in WISE_FT.items())
    assert_same(sfa, wise_ft)
    assert differ(sfa, plain[2])
    for name, neutral in (("sfa", {"beta": 0.0}), ("wise_ft", {"alpha": 1.0}), ("replay", {"fraction": 0.0})):
        assert_same(run(name, neutral, head=head)[1][2], plain[2])


def test_an_average_moves_the_old_rows_of_a_grown_head_only(run: Run) -> None:
    plain = run("sequential", head="seen")[1]
    sfa = run("sfa", WISE_FT["sfa"], head="seen")[1]
    for name, before in sfa[1].items():
        raw, after = plain[2][name], sfa[2][name]
        old = len(before)
        middle = raw[:old].lerp(before, 0.5)
        assert (after[:old] - middle).abs().max() <= 1e-6 * middle.abs().max()
        if name.startswith("3."):
            assert (len(raw), old) == (10, 5)
            assert (after[5:] == raw[5:]).all()  # new rows: as training left them


def test_a_kept_optimizer_is_recorded_and_changes_the_second_task_only(run: Run) -> None:
    fresh, kept = (run("sequential", boundary=choice, head="seen") for choice in ("fresh", "keep-optimizer"))
    assert_same(fresh[1][1], kept[1][1])
    assert differ(fresh[1][2], kept[1][2])
    assert "optimizer and schedule at a new task: fresh" in fresh[0].notes
    assert "optimizer and schedule at a new task: keep-optimizer" in kept[0].notes
    assert fresh[0].recipe["boundary"] == "fresh"


@pytest.mark.parametrize("scenario", ["class-incremental", "domain-incremental", "task-incremental"])
def test_each_scenario_has_its_rows_and_its_rivals(scenario: str, run: Run) -> None:
    results, weights = run("sequential", scenario=scenario)
    rows = {"class-incremental": 10, "domain-incremental": 5, "task-incremental": 10}[scenario]
    assert {len(each["3.weight"]) for each in weights} == {rows}
    assert results.scenario == scenario
    if scenario == "task-incremental":  # the rows of the other task are never pushed down
        assert (weights[2]["3.weight"][:5] == weights[1]["3.weight"][:5]).all()
        assert results.head["part-2"] == [f"part-2/{digit}" for digit in range(5, 10)]
    else:
        assert differ({"old": weights[2]["3.weight"][:5]}, {"old": weights[1]["3.weight"][:5]})


def test_sequential_forgets_rehearsal_and_averages_keep_and_joint_keeps_all(run: Run) -> None:
    """The point of it all, on twelve times as many digits."""
    train = {"num_train_epochs": 8, "per_device_train_batch_size": 16, "learning_rate": 3e-3,
             "lr_scheduler_type": "constant", "use_cpu": True}  # fmt: skip
    changes = {"data": {"path": "digits", "limit": 72}, "train": train,
               "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64, "hidden": [64]}}}  # fmt: skip
    settings = {"sequential": {}, "joint": {}, "sfa": {"beta": 0.3, "p": 0.25}, "replay": {"fraction": 0.2}}
    score = {name: run(name, method, loop="plain", **changes)[0].metrics for name, method in settings.items()}
    assert score["sequential"].average_accuracy < 0.6
    assert score["sequential"].forgetting > 0.6
    for name in ("sfa", "replay"):
        assert score[name].average_accuracy > score["sequential"].average_accuracy + 0.15
    assert score["joint"].average_accuracy > 0.9
    assert score["joint"].average_accuracy > score["sfa"].average_accuracy


def test_controls_are_evaluated_before_and_after_every_task_and_never_trained_on(run: Run) -> None:
    controls = [{"name": "tilted", "data": {"rotate": 25.0}}, {"name": "ones", "data": {"classes": [1]}}]
    without, plain = run("sequential")
    results, weights = run("sequential", controls=controls)
    for one, other in zip(weights, plain, strict=True):
        assert_same(one, other)
    scores = results.scores["accuracy"]
    assert {name: len(values) for name, values in scores.controls.items()} == {"tilted": 3, "ones": 3}
    assert scores.matrix == without.scores["accuracy"].matrix
    assert len(set(scores.controls["tilted"])) > 1  # of other models each time


def test_workers_that_read_lazily_change_no_bit(run: Run, digits_recipe: dict[str, Any]) -> None:
    vit = {"model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 8,
           "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
           "hidden_dropout_prob": 0.2}  # fmt: skip
    train = {**digits_recipe["train"], "num_train_epochs": 1}
    usual = run("sequential", model={"config": vit}, train=train)
    lazy = run("sequential", model={"config": vit}, train={**train, "dataloader_num_workers": 2},
               data={"path": "digits", "limit": 6, "in_memory": False})  # fmt: skip
    for one, other in zip(usual[1], lazy[1], strict=True):
        assert_same(one, other)
    assert usual[0].scores == lazy[0].scores
