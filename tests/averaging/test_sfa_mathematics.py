"""SFA against equal formulas, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from stockpot import SFA


class Point(nn.Module):
    """One vector of weights."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(values.clone())


def vector(seed: int, size: int = 50) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def train(model: nn.Module, steps: int, sfa: SFA | None = None, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        x = torch.randn(8, 6, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        (model(x) - x[:, :3].sin()).pow(2).mean().backward()
        optimizer.step()
        if sfa is not None:
            sfa.step()
    return model


def weights(model: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in model.parameters()])


@pytest.mark.parametrize("beta", [0.1, 0.25, 0.5, 0.9])
def test_p_1_is_wise_ft_and_task_arithmetic(beta: float) -> None:
    start = network()
    tuned = weights(train(copy.deepcopy(start), 30))
    model = copy.deepcopy(start)
    train(model, 30, SFA(model, beta=beta, p=1, total_steps=30))
    pretrained, alpha = weights(start), 1 - beta
    wise_ft = (1 - alpha) * pretrained + alpha * tuned
    task_arithmetic = pretrained + (1 - beta) * (tuned - pretrained)
    torch.testing.assert_close(weights(model), (1 - beta) * tuned + beta * pretrained, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(weights(model), wise_ft, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(weights(model), task_arithmetic, rtol=1e-14, atol=1e-15)


def test_one_average_is_a_proximal_step() -> None:
    beta, rate = 0.3, 0.05
    strength = beta / ((1 - beta) * rate)
    model = Point(vector(0))
    sfa = SFA(model, beta=beta, every=1)
    tuned = vector(1)
    with torch.no_grad():
        model.theta.copy_(tuned)
    sfa.step()
    x = model.theta.detach().clone().requires_grad_()
    objective = strength / 2 * (x - vector(0)).pow(2).sum() + (x - tuned).pow(2).sum() / (2 * rate)
    (gradient,) = torch.autograd.grad(objective, x)
    assert gradient.abs().max() < 1e-13 * strength * vector(1).abs().max()


def test_averaging_after_every_sgd_step_is_l2_sgd() -> None:
    beta, rate, curvature, origin = 0.02, 0.1, vector(2).abs() + 0.1, vector(3)
    model = Point(vector(4))
    sfa = SFA(model, beta=beta, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    start = vector(4)
    x = start.clone()
    slow, strength = (1 - beta) * rate, beta / ((1 - beta) * rate)
    for _ in range(200):
        optimizer.zero_grad()
        (curvature * (model.theta - origin).pow(2)).sum().div(2).backward()
        optimizer.step()
        assert sfa.step()
        x = x - slow * (curvature * (x - origin) + strength * (x - start))
    assert (model.theta.detach() - x).norm() < 2e-15 * x.norm()


def test_each_direction_of_a_quadratic_keeps_what_the_formula_says() -> None:
    beta, rate, every, curvature = 0.25, 0.1, 7, torch.logspace(-3, 0.9, 50, dtype=torch.float64)
    origin = vector(5)
    model = Point(torch.zeros(50, dtype=torch.float64))
    sfa = SFA(model, beta=beta, every=every)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(every * 300):
        optimizer.zero_grad()
        (curvature * (model.theta - origin).pow(2)).sum().div(2).backward()
        optimizer.step()
        sfa.step()
    a = (1 - rate * curvature) ** every
    survival = (1 - beta) * (1 - a) / (1 - (1 - beta) * a)
    torch.testing.assert_close(model.theta.detach() / origin, survival, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", [{"p": 0.1, "total_steps": 40}, {"every": 3}])
def test_beta_0_is_bitwise_plain_fine_tuning(dtype: torch.dtype, schedule: dict[str, float]) -> None:
    plain = network().to(dtype)
    averaged = copy.deepcopy(plain)
    sfa = SFA(averaged, beta=0.0, **schedule)
    for model, averager in ((plain, None), (averaged, sfa)):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(3)
        for _ in range(40):
            x = torch.randn(8, 6, dtype=dtype, generator=generator)
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()
            if averager is not None:
                averager.step()
    assert sfa.averages > 0
    assert torch.equal(weights(plain), weights(averaged))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_1_gives_the_anchor_exactly(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    start = weights(model).clone()
    sfa = SFA(model, beta=1, every=100)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(1e9).add_(0.1)
    sfa.steps = 1
    assert sfa.finish()
    assert torch.equal(weights(model), start)


def test_it_moves_the_weights_by_what_the_formula_says_in_single_precision() -> None:
    model = network().float()
    start = weights(model).double()
    sfa = SFA(model, beta=0.37, every=1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor))
    tuned = weights(model).double()
    assert sfa.distance() == pytest.approx(float((tuned - start).norm()), rel=1e-6)
    sfa.step()
    torch.testing.assert_close(weights(model).double(), 0.63 * tuned + 0.37 * start, rtol=1e-6, atol=1e-6)
    assert sfa.distance() == pytest.approx(0.63 * float((tuned - start).norm()), rel=1e-6)


def test_steps_finish_and_counts() -> None:
    model = network()
    sfa = SFA(model, beta=0.1, every=4)
    assert [sfa.step() for _ in range(9)] == [False, False, False, True] * 2 + [False]
    assert sfa.finish()
    assert not sfa.finish()
    assert (sfa.steps, sfa.averages) == (9, 3)
    assert sfa.seconds > 0
    early = SFA(model, beta=0.1, p=0.5, total_steps=100)
    assert not early.finish()  # no step was made: there is nothing to average
    early.step()
    assert early.finish()
