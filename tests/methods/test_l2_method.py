"""L2: its fixed point, its three forms, and what it does to rows that the anchor lacks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toy import (
    LOOPS,
    Weights,
    assert_close,
    assert_same,
    by_hand,
    config,
    copied,
    differ,
    examples,
    held,
    learn,
    network,
    seed,
)

from stockpot.batches.examples import TrainingData
from stockpot.errors import StockpotError
from stockpot.methods import build
from stockpot.methods.base import Method, Task


@pytest.mark.parametrize("form", ["gradient", "loss"])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_penalty_is_added_to_the_loss(loop: str, form: str, tmp_path: Path) -> None:
    learnt = learn(config("l2", strength=0.5, form=form), loop, tmp_path)
    first = by_hand(learnt.weights[0], TrainingData.of(examples(0)), seed(0))
    by_formula = by_hand(first, TrainingData.of(examples(1)), seed(1), extra=held((0.25, None, first)))
    assert_close(learnt.weights[2], by_formula)


@pytest.mark.parametrize("loop", LOOPS)
def test_micro_batches_share_one_penalty_out(loop: str, tmp_path: Path) -> None:
    forms = [
        learn(config("l2", strength=0.5, form=form), loop, tmp_path / form, gradient_accumulation_steps=3)
        for form in ("gradient", "loss")
    ]
    assert_close(forms[0].weights[2], forms[1].weights[2])


@pytest.mark.parametrize("loop", LOOPS)
def test_the_decoupled_form_is_an_sfa_average_after_every_step(loop: str, tmp_path: Path) -> None:
    strength, rate = 0.5, 0.05
    l2 = learn(config("l2", strength=strength, form="decoupled"), loop, tmp_path / "l2")
    beta = rate * strength / (1 + rate * strength)
    sfa = learn(config("sfa", beta=beta, every=1), loop, tmp_path / "sfa")
    assert_close(l2.weights[2], sfa.weights[2])
    assert differ(l2.weights[2], learn(config("sequential"), loop, tmp_path / "plain").weights[2])


def test_the_decoupled_form_follows_the_schedule_of_the_learning_rate(tmp_path: Path) -> None:
    settings = {"lr_scheduler_type": "linear", "max_steps": 4, "optim": "sgd", "max_grad_norm": 0.0}
    one, other = (
        learn(config("l2", strength=2.0, form="decoupled"), loop, tmp_path / loop, **settings) for loop in LOOPS
    )
    assert_same(one.weights[2], other.weights[2])
    model = copy.deepcopy(network())
    model.load_state_dict(one.weights[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    from stockpot.training.batches import EpochBatches

    batches, step = EpochBatches(TrainingData.of(examples(1)), 8, seed(1)), 0
    for epoch in range(2):
        batches.set_epoch(epoch)
        for indices in batches:
            if step == 4:
                break
            rate = 0.05 * (4 - step) / 4
            optimizer.param_groups[0]["lr"] = rate
            batch = examples(1).__getitems__(indices)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"]).backward()
            optimizer.step()
            with torch.no_grad():
                for name, tensor in model.named_parameters():
                    tensor.copy_((tensor + rate * 2.0 * one.weights[1][name]) / (1 + rate * 2.0))
            step += 1
    assert_close(one.weights[2], copied(model))


class Quadratic(nn.Module):
    """½θᵀAθ − bᵀθ as a loss; θ is a weight of one row."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())


def started(method: Method, model: nn.Module, anchor: Weights, folder: Path, **more: Any) -> Method:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(anchor, folder / "model.safetensors")
    method.task_start(Task(1, "second", 0, model, checkpoint=lambda source: folder, **more))
    return method


@pytest.mark.parametrize("form", ["gradient", "loss", "decoupled"])
def test_on_a_quadratic_it_ends_at_the_ridge_solution(form: str, tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(3)
    root = torch.randn(4, 4, generator=draws, dtype=torch.float64)
    matrix, vector = root @ root.T + torch.eye(4, dtype=torch.float64), torch.randn(4, generator=draws).double()
    anchor = torch.randn(4, generator=draws).double()
    model, strength, rate = Quadratic(anchor), 0.7, 0.02
    method = started(build(config("l2", strength=strength, form=form)), model, {"theta": anchor}, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for step in range(1000):
        optimizer.zero_grad()
        loss = 0.5 * model.theta @ matrix @ model.theta - vector @ model.theta
        method.loss(loss, torch.empty(0), {}, model).backward()
        method.gradients(model, step + 1)
        optimizer.step()
        method.after_step(model, optimizer, step + 1)
    expected = torch.linalg.solve(matrix + strength * torch.eye(4, dtype=torch.float64), vector + strength * anchor)
    if form == "decoupled":  # a proximal step has its fixed point where a gradient step from it is undone
        beta = rate * strength / (1 + rate * strength)
        theta = model.theta.detach()
        stepped = theta - rate * (matrix @ theta - vector)
        torch.testing.assert_close(theta, (1 - beta) * stepped + beta * anchor, rtol=1e-12, atol=1e-12)
        assert (theta - expected).abs().max() < rate
    else:
        torch.testing.assert_close(model.theta.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["gradient", "loss", "decoupled"])
def test_rows_and_layers_that_the_anchor_lacks_are_pulled_to_zero(form: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).double()
    before = copied(model)
    anchor = {"0.weight": torch.zeros(2, 2).double(), "0.bias": torch.zeros(2).double()}
    method = build(config("l2", strength=0.5, new_strength=0.25, form=form))
    started(method, model, anchor, tmp_path, new=["0.weight", "0.bias", "1.*"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method.loss(0 * sum(tensor.sum() for tensor in model.parameters()), torch.empty(0), {}, model).backward()
    method.gradients(model, 1)
    optimizer.step()
    method.after_step(model, optimizer, 1)
    old, new = (1 / 1.05, 1 / 1.025) if form == "decoupled" else (0.95, 0.975)
    factors = {"0.weight": torch.tensor([[old], [old], [new]]), "0.bias": torch.tensor([old, old, new])}
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name] * factors.get(name, torch.tensor(new)).double())


def test_a_path_and_the_pretrained_model_can_be_anchors(tmp_path: Path) -> None:
    start = learn(config("sequential"), "plain", tmp_path / "plain", tasks=[examples(2)])
    path = tmp_path / "plain" / "model-0" / "model.safetensors"
    for anchor, weights in (("pretrained", start.weights[0]), (str(path), start.weights[1])):
        learnt = learn(config("l2", strength=0.5, anchor=anchor), "plain", tmp_path / "l2")
        first = by_hand(learnt.weights[0], TrainingData.of(examples(0)), seed(0))
        by_formula = by_hand(first, TrainingData.of(examples(1)), seed(1), extra=held((0.25, None, weights)))
        assert_close(learnt.weights[2], by_formula)
        assert learnt.methods[1].costs.stored_bytes >= sum(tensor.nbytes for tensor in weights.values())


def test_the_first_task_is_held_where_that_is_asked_for(tmp_path: Path) -> None:
    learnt = learn(config("l2", strength=0.5, first_task="average"), "plain", tmp_path, tasks=[examples(0)])
    start = learnt.weights[0]
    assert_close(
        learnt.weights[1], by_hand(start, TrainingData.of(examples(0)), seed(0), extra=held((0.25, None, start)))
    )


@pytest.mark.parametrize("key", ["strength", "new_strength"])
def test_a_negative_strength_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        config("l2", **{key: -1.0})


def test_a_stream_of_one_task_is_refused_unless_it_is_held() -> None:
    assert "ever be penalised" in (config("l2").settled("random").problem_with(1) or "")
    assert config("l2").settled("checkpoint").problem_with(1) is None
    assert config("l2").problem_with(2) is None
    assert config("l2", first_task="average").problem_with(1) is None


def test_an_anchor_of_another_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"'1\.weight'"):
        started(build(config("l2")), network(), {"0.weight": torch.zeros(5, 6).double()}, tmp_path)
