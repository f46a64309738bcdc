"""One suite for every method through every loop, in float64: it acts, its neutral setting does not, loops agree.

The cases are those of the registry: a new method is in all of them. What its equation says is tested in a file of its
own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from taken_up import METHODS as TAKEN_UP
from toy import LOOPS, STEPS, Learnt, Train, Weights, assert_same, differ, taken_up

from stockpot.averaging.schedule import average_steps
from stockpot.methods import registry
from stockpot.methods.declare.docstring import sections

METHODS = list(registry())
TYPICAL: dict[str, dict[str, Any]] = {name: dict(method.typical) for name, method in registry().items()}
# The loops' settings do not know the method: these four have an average, other data, a penalty, and nothing.
SAMPLE = ["sequential", "sfa", "replay", "ewc"]
NEUTRAL: list[tuple[str, dict[str, Any]]] = [
    *((name, dict(method.neutral)) for name, method in registry().items() if method.neutral is not None),
    # Beyond the one that a method declares: whatever else should change nothing.
    ("sfa", {"beta": {"*": 0.0}, "first_task": "average", "every": 1}),
    ("sfa", {"beta": "auto", "strength": 0.0, "first_task": "average"}),
    ("replay", {"count": 0}),
    ("replay", {"budget": "reservoir", "count": 0}),
    ("replay", {"count": 0, "mix": "batch"}),
    ("replay", {"loss": "der++", "count": 10, "logits_weight": 0.0, "labels_weight": 0.0}),
    ("replay", {"select": "herding", "count": 0}),
    ("agem", {"fraction": 0.0}),
    *(("l2", {"strength": 0.0, "form": form, "first_task": "average"}) for form in ("gradient", "loss", "decoupled")),
    *(("ewc", {"strength": 0.0, "mode": mode}) for mode in ("online", "summed")),
]


ACCUMULATED = {
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 4,
    "weight_decay": 0.1,
    "dataloader_drop_last": True,
    "carry": True,
}


def furthest(one: Weights, other: Weights) -> float:
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


def assert_alike(one: Learnt, other: Learnt) -> None:
    """The same weights after every task, and the same state of the optimizer, bit for bit."""
    for weights, again in zip(one.weights, other.weights, strict=True):
        assert_same(weights, again)
    assert one.tasks[1].total_steps == other.tasks[1].total_steps
    for state, again in zip(one.optimizer, other.optimizer, strict=True):
        assert_same(state, again)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_acts_on_the_second_task_alone_and_both_loops_agree_bitwise(name: str, train: Train) -> None:
    method = registry()[name]
    one, other = (train(name, loop, TYPICAL[name]) for loop in LOOPS)
    plain = train("sequential", "plain", {})
    assert_alike(one, other)
    assert_same(one.weights[1], plain.weights[1])  # of a start model with random weights there is nothing to keep
    moved = furthest(one.weights[2], plain.weights[2])
    assert (moved > 1e-2) == (method.role != "floor")  # it does something, and not by a rounding error
    assert differ(one.weights[2], one.weights[1])


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("name", "keys"), NEUTRAL, ids=str)
def test_the_neutral_setting_is_bitwise_plain_fine_tuning(
    name: str, keys: dict[str, Any], loop: str, train: Train
) -> None:
    learnt, plain = train(name, loop, keys), train("sequential", loop, {})
    for weights, without in zip(learnt.weights, plain.weights, strict=True):
        assert_same(weights, without)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.1, "warmup_steps": 2, "lr_scheduler_type": "cosine"},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.01, "label_smoothing_factor": 0.1},
        {"max_steps": 5, "optim": "sgd", "max_grad_norm": 0.0},
        {"num_train_epochs": 1.5, "dataloader_drop_last": True, "adam_beta1": 0.5},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("name", SAMPLE)
def test_both_loops_agree_bitwise_whatever_their_settings(name: str, settings: dict[str, Any], train: Train) -> None:
    one, other = (train(name, loop, TYPICAL[name], **settings) for loop in LOOPS)
    assert_alike(one, other)
    assert differ(one.weights[2], one.weights[1])


@pytest.mark.parametrize("name", METHODS)
def test_both_loops_agree_bitwise_with_dropout_and_batch_norm(name: str, train: Train) -> None:
    one, other = (train(name, loop, TYPICAL[name], on="norm") for loop in LOOPS)
    assert_alike(one, other)
    assert one.weights[1]["2.num_batches_tracked"] == STEPS


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_inside_a_task_to_the_same_bits(
    name: str, loop: str, train: Train, tmp_path: Path
) -> None:
    """Through run folders, and killed rather than asked to stop: tests/runs/test_resumed.py."""
    whole = train(name, loop, TAKEN_UP[name], on="norm", **ACCUMULATED)
    weights, optimizer = taken_up(whole, 4, tmp_path)
    assert_same(weights, whole.weights[2])
    assert_same(optimizer, whole.optimizer[1])


@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_method_costs_is_counted(loop: str, train: Train) -> None:
    each = 22 * (6 * 8 + 8)  # bytes of a task's inputs and labels
    for name in ("sequential", "sfa", "wise_ft", "replay", "joint"):
        first, second = (method.costs for method in train(name, loop, TYPICAL[name]).methods)
        assert second.averages == {"sfa": len(average_steps(STEPS, 0.4)), "wise_ft": 1}.get(name, 0)
        assert (second.averaging_seconds > 0) == (name in ("sfa", "wise_ft"))
        assert first.averages == 0
        assert first.stored_data_bytes == {"replay": each * 6 // 22, "joint": each}.get(name, 0)
        assert second.stored_data_bytes == {"replay": each * 12 // 22, "joint": 2 * each}.get(name, 0)
        assert second.extra_memory_bytes == {"replay": each * 6 // 22, "joint": each}.get(name, 0)  # SFA's is on disk


STORING: list[tuple[str, dict[str, Any]]] = [
    *TYPICAL.items(),
    ("replay", {"loss": "der++", "count": 10}),
    ("ewc", {"strength": 20.0, "mode": "online"}),
    ("sfa", {"beta": 0.3, "anchor": "pretrained"}),
    ("l2", {"strength": 0.5, "anchor": "pretrained"}),
]


@pytest.mark.parametrize(("name", "keys"), STORING, ids=str)
def test_data_models_and_statistics_are_all_that_is_stored(name: str, keys: dict[str, Any], train: Train) -> None:
    costs = [method.costs for method in train(name, "plain", keys).methods]
    for cost in costs:
        parts = (cost.stored_data_bytes, cost.stored_model_bytes, cost.stored_statistics_bytes)
        assert min(parts) >= 0 and sum(parts) == cost.stored_bytes
    says_nothing = sections(registry()[name].__doc__)["Kept"].startswith("nothing")
    assert (costs[-1].stored_bytes == 0) == (says_nothing and "anchor" not in keys)
