"""SI: the path integral, the importance that it makes, and the penalty."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from toy import LOOPS, assert_close, by_hand, config, examples, held, learn, network, seed

from stockpot.batches.examples import TrainingData
from stockpot.methods import build
from stockpot.methods.base import Task


class Two(nn.Module):
    """Two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))


def test_the_path_and_the_importance_are_what_the_equations_say() -> None:
    model, method = Two(), build(config("si", strength=3.0, damping=0.5))
    task = Task(0, "first", 0, model)
    method.task_start(task)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step, (slope, change) in enumerate([((1.0, 2.0), (-0.5, 0.25)), ((0.5, -1.0), (-1.0, -0.5))], 1):
        model.theta.grad = torch.tensor(slope).double()
        method.gradients(model, step)
        with torch.no_grad():
            model.theta.add_(torch.tensor(change).double())
        method.after_step(model, optimizer, step)
    method.task_end(task, examples(0))
    # ω = (1·0.5 + 0.5·1, −2·0.25 − 1·0.5) = (1, −1); Δ = (−1.5, −0.25)
    expected = torch.tensor([1.0 / (2.25 + 0.5), 0.0], dtype=torch.float64)
    torch.testing.assert_close(method.state()[0]["importance/theta"], expected)


def test_along_small_steps_the_path_sums_to_the_fall_of_the_loss() -> None:
    model, method = Two(), build(config("si"))
    curvature = torch.tensor([2.0, 0.5]).double()
    method.task_start(Task(0, "first", 0, model))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    start = model.theta.detach().clone()
    for step in range(1, 801):
        optimizer.zero_grad()
        (0.5 * curvature * model.theta.square()).sum().backward()
        method.gradients(model, step)
        optimizer.step()
        method.after_step(model, optimizer, step)
    fall = 0.5 * curvature * (start.square() - model.theta.detach().square())  # each weight's share: they are apart
    torch.testing.assert_close(method.state()[0]["path/theta"], fall, rtol=2e-3, atol=0)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_second_task_is_trained_with_the_penalty(loop: str, tmp_path: Path) -> None:
    learnt = learn(config("si", strength=2.0), loop, tmp_path)
    importance = {
        name.removeprefix("importance/"): tensor
        for name, tensor in learn(config("si", strength=2.0), loop, tmp_path / "one", tasks=[examples(0)])
        .methods[0]
        .state()[0]
        .items()
    }
    first = learnt.weights[1]
    assert max(float(tensor.max()) for tensor in importance.values()) > 0.1
    assert_close(
        learnt.weights[2],
        by_hand(first, TrainingData.of(examples(1)), seed(1), extra=held((2.0, importance, first))),
        1e-10,
    )


def test_importances_of_the_tasks_add_up(tmp_path: Path) -> None:
    learnt = learn(config("si", strength=0.0), "plain", tmp_path, tasks=[examples(0), examples(1), examples(0)])
    sums = [method.state()[0]["importance/1.weight"] for method in learnt.methods]
    assert (sums[1] >= sums[0]).all()
    assert (sums[2] >= sums[1]).all()
    assert (sums[2] > sums[0]).any()


def test_the_path_is_that_of_the_tasks_own_loss(tmp_path: Path) -> None:
    """With a penalty so strong that nothing moves, ω would be large and negative if the penalty's gradient counted."""
    learnt = learn(config("si", strength=2.0), "plain", tmp_path, max_grad_norm=0.0, optim="sgd", learning_rate=1e-3)
    method, model = build(config("si", strength=1e3)), network()
    method.load_state(*learnt.methods[0].state())
    task = Task(1, "second", 0, model, checkpoint=lambda source: tmp_path / "model-0")
    method.task_start(task)
    for tensor in model.parameters():
        tensor.grad = torch.ones_like(tensor)
    method.gradients(model, 1)
    assert any(bool((tensor.grad != 1).any()) for tensor in model.parameters() if tensor.grad is not None)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.sub_(0.5)
    method.after_step(model, torch.optim.SGD(model.parameters(), lr=1.0), 1)
    for name, tensor in method.state()[0].items():
        if name.startswith("path/"):
            torch.testing.assert_close(tensor, torch.full_like(tensor, 0.5))


@pytest.mark.parametrize(("key", "value"), [("strength", -1.0), ("damping", 0.0)])
def test_settings_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match="greater than"):
        config("si", **{key: value})
