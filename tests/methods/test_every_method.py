"""One suite for every method through every loop, in float64: its formula, its neutral setting, its guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import (
    LOOPS,
    STEPS,
    Learnt,
    Weights,
    assert_close,
    assert_same,
    averaged,
    by_hand,
    config,
    copied,
    differ,
    examples,
    learn,
    network,
    seed,
)

from stockpot.averaging.schedule import average_steps
from stockpot.batches.examples import TrainingData, concat
from stockpot.methods import registry
from stockpot.seeds import derive

METHODS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "joint": {},
    "sfa": {"beta": 0.3, "p": 0.4},
    "wise_ft": {"alpha": 0.6},
    "replay": {"fraction": 0.25},
    "l2": {"strength": 0.5},
    "ewc": {"strength": 20.0},
    "mas": {"strength": 2.0},
    "si": {"strength": 5.0},
    "lwf": {"strength": 2.0},
    "agem": {"count": 10, "per_step": 6},
    "task_arithmetic": {"scale": 0.3},
    "ties": {},
    "dare": {"density": 0.7},
    "soup": {},
    "magmax": {},
    "fisher_average": {},
}
BY_HAND = ["sequential", "joint", "sfa", "wise_ft", "replay"]  # the others' equations are tested in files of their own
NEUTRAL: list[tuple[str, dict[str, Any]]] = [
    ("sfa", {"beta": 0.0}),
    ("sfa", {"beta": {"*": 0.0}, "first_task": "average", "every": 1}),
    ("wise_ft", {"alpha": 1.0}),
    ("replay", {"fraction": 0.0}),
    ("replay", {"count": 0}),
    ("replay", {"budget": "reservoir", "count": 0}),
    ("replay", {"count": 0, "mix": "batch"}),
    ("replay", {"loss": "der++", "count": 10, "logits_weight": 0.0, "labels_weight": 0.0}),
    ("replay", {"select": "herding", "count": 0}),
    ("agem", {"count": 0}),
    ("agem", {"fraction": 0.0}),
    *(("l2", {"strength": 0.0, "form": form, "first_task": "average"}) for form in ("gradient", "loss", "decoupled")),
    *(("ewc", {"strength": 0.0, "mode": mode}) for mode in ("separate", "online", "summed")),
    ("mas", {"strength": 0.0}),
    ("si", {"strength": 0.0}),
    ("lwf", {"strength": 0.0}),
]


def expected(name: str) -> list[Weights]:
    """The two-task stream of `METHODS[name]`, trained by hand from the method's equation."""
    start = copied(network())
    one, two = examples(0), examples(1)
    first = by_hand(start, TrainingData.of(one), seed(0))
    if name == "joint":
        return [first, by_hand(start, TrainingData.of(concat([one, two])), seed(1))]
    if name == "replay":
        picked = (
            torch.randperm(22, generator=torch.Generator().manual_seed(derive(seed(0), "replay")))[:6].sort().values
        )
        kept = type(one)(one.pixel_values[picked], one.labels[picked])  # a quarter of 22, rounded
        return [first, by_hand(first, TrainingData.of(concat([two, kept])), seed(1))]
    beta, steps = {"sequential": (0.0, []), "sfa": (0.3, [2, 5, 6]), "wise_ft": (0.4, [6])}[name]
    return [first, by_hand(first, TrainingData.of(two), seed(1), averaged(first, beta, steps))]


def test_the_suite_knows_every_method() -> None:
    assert set(METHODS) == set(registry())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", BY_HAND)
def test_a_method_is_what_its_equation_says(name: str, loop: str, tmp_path: Path) -> None:
    learnt = learn(config(name, **METHODS[name]), loop, tmp_path)
    for weights, by_formula in zip(learnt.weights[1:], expected(name), strict=True):
        assert_close(weights, by_formula)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_but_plain_fine_tuning_changes_the_second_task(name: str, loop: str, tmp_path: Path) -> None:
    learnt = learn(config(name, **METHODS[name]), loop, tmp_path)
    plain = expected("sequential")[1]
    moved = max(float((learnt.weights[2][key] - plain[key]).abs().max()) for key in plain)
    assert (moved > 1e-2) == (name != "sequential")  # it does something, and not by a rounding error


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("name", "neutral"), NEUTRAL, ids=str)
def test_the_neutral_setting_is_bitwise_plain_fine_tuning(
    name: str, neutral: dict[str, Any], loop: str, tmp_path: Path
) -> None:
    plain = learn(config("sequential"), loop, tmp_path / "plain")
    learnt = learn(config(name, **neutral), loop, tmp_path / "method")
    for weights, without in zip(learnt.weights, plain.weights, strict=True):
        assert_same(weights, without)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_its_first_task_as_plain_fine_tuning_does(name: str, loop: str, tmp_path: Path) -> None:
    plain = learn(config("sequential"), loop, tmp_path / "plain", tasks=[examples(0)])
    learnt = learn(config(name, **METHODS[name]), loop, tmp_path / "method", tasks=[examples(0)])
    assert_same(learnt.weights[1], plain.weights[1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1, "warmup_steps": 2, "lr_scheduler_type": "cosine"},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.01, "label_smoothing_factor": 0.1},
        {"max_steps": 5, "optim": "sgd", "max_grad_norm": 0.0},
        {"num_train_epochs": 1.5, "dataloader_drop_last": True, "adam_beta1": 0.5},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
@pytest.mark.parametrize("name", METHODS)
def test_both_loops_agree_bitwise(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    method = config(name, **METHODS[name])
    one, other = (learn(method, loop, tmp_path / loop, **settings) for loop in LOOPS)
    assert one.tasks[1].total_steps == other.tasks[1].total_steps
    for trainer, plain in zip(one.weights, other.weights, strict=True):
        assert_same(trainer, plain)
    assert differ(one.weights[2], one.weights[1])
    assert one.optimizer[1].keys() == other.optimizer[1].keys()
    for key, state in one.optimizer[1].items():
        assert torch.equal(state, other.optimizer[1][key]), key


@pytest.mark.parametrize("name", METHODS)
def test_both_loops_agree_bitwise_with_dropout_and_batch_norm(name: str, tmp_path: Path) -> None:
    model = network(dropout=0.3, norm=True)
    method = config(name, **METHODS[name])
    one, other = (learn(method, loop, tmp_path / loop, model=model) for loop in LOOPS)
    for trainer, plain in zip(one.weights, other.weights, strict=True):
        assert_same(trainer, plain)
    assert one.weights[1]["2.num_batches_tracked"] == STEPS


def costs_of(learnt: Learnt) -> list[Any]:
    return [method.costs for method in learnt.methods]


@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_method_costs_is_counted(loop: str, tmp_path: Path) -> None:
    each = 22 * (6 * 8 + 8)  # bytes of a task's inputs and labels
    for name in ("sequential", "sfa", "wise_ft", "replay", "joint"):
        first, second = costs_of(learn(config(name, **METHODS[name]), loop, tmp_path / name))
        assert second.averages == {"sfa": len(average_steps(STEPS, 0.4)), "wise_ft": 1}.get(name, 0)
        assert (second.averaging_seconds > 0) == (name in ("sfa", "wise_ft"))
        assert first.averages == 0
        assert first.stored_data_bytes == {"replay": each * 6 // 22, "joint": each}.get(name, 0)
        assert second.stored_data_bytes == {"replay": each * 12 // 22, "joint": 2 * each}.get(name, 0)
        assert second.extra_memory_bytes == {"replay": each * 6 // 22, "joint": each}.get(name, 0)  # SFA's is on disk


STORING: list[tuple[str, dict[str, Any]]] = [
    *METHODS.items(),
    ("replay", {"loss": "der++", "count": 10}),
    ("ewc", {"strength": 20.0, "mode": "online"}),
    ("sfa", {"beta": 0.3, "anchor": "pretrained"}),
    ("l2", {"strength": 0.5, "anchor": "pretrained"}),
]


@pytest.mark.parametrize(("name", "settings"), STORING, ids=str)
def test_data_models_and_statistics_are_all_that_is_stored(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    costs = costs_of(learn(config(name, **settings), "plain", tmp_path))
    for cost in costs:
        parts = (cost.stored_data_bytes, cost.stored_model_bytes, cost.stored_statistics_bytes)
        assert min(parts) >= 0 and sum(parts) == cost.stored_bytes
    plain = name in ("sequential", "wise_ft", "lwf") or (name == "sfa" and "anchor" not in settings)
    assert (costs[-1].stored_bytes == 0) == (plain or (name == "l2" and "anchor" not in settings))
