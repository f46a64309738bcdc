"""bf16 and fp16 weights: refused, rounded to nearest, or rounded without bias."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stockpot import SFA
from stockpot.averaging.average import round_stochastically


class Weights(nn.Module):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(values)


def pulled(weights: Tensor, anchor: Tensor, beta: float, **settings: Any) -> Tensor:
    model = Weights(weights.clone())
    SFA(model, beta=beta, every=1, anchor={"w": anchor}, **settings).step()
    return model.w.detach()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nearest_is_the_fp32_average_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights, anchor = torch.randn(1000).to(dtype), torch.randn(1000).to(dtype)
    expected = weights.float().lerp(anchor.float(), 0.3).to(dtype)
    assert torch.equal(pulled(weights, anchor, 0.3, rounding="nearest"), expected)


def test_an_fp32_anchor_of_bf16_weights_is_not_rounded_first() -> None:
    torch.manual_seed(0)
    weights, anchor = torch.randn(1000).bfloat16(), torch.randn(1000)
    for keep in ("device", "cpu", "disk"):
        result = pulled(weights, anchor, 0.3, rounding="nearest", keep=keep)
        assert torch.equal(result, weights.float().lerp(anchor, 0.3).bfloat16())


def test_a_small_pull_is_lost_by_nearest_and_kept_in_the_mean_by_stochastic() -> None:
    weights = torch.full((200_000,), 1.0).bfloat16()
    anchor = torch.full((200_000,), 1.0 + 2**-7).bfloat16()  # one unit in the last place away
    assert torch.equal(pulled(weights, anchor, 0.1, rounding="nearest"), weights)
    moved = pulled(weights, anchor, 0.1, rounding="stochastic").double() - 1.0
    assert set(moved.unique().tolist()) == {0.0, 2**-7}
    error = 2**-7 * (0.1 * 0.9 / weights.numel()) ** 0.5
    assert moved.mean().item() == pytest.approx(0.1 * 2**-7, abs=5 * error)


def test_stochastic_rounding_is_unbiased_and_between_neighbours() -> None:
    torch.manual_seed(0)
    values = torch.cat([torch.randn(50) * 10.0**power for power in range(-20, 20, 4)])
    noise = torch.randint(1 << 16, (4000, len(values)), dtype=torch.int32)
    draws = torch.stack([round_stochastically(values, row) for row in noise]).double()
    ulp = torch.exp2(torch.floor(torch.log2(values.abs().double())) - 7)
    assert ((draws - values.double()).abs() < ulp).all()
    bias = (draws.mean(0) - values.double()) / ulp
    assert bias.abs().max() < 5 * 0.5 / 4000**0.5


def test_fp32_weights_with_a_bf16_anchor_work_in_fp32() -> None:
    torch.manual_seed(0)
    weights, anchor = torch.randn(1000), torch.randn(1000).bfloat16()
    for keep in ("device", "cpu", "disk"):
        assert torch.equal(pulled(weights, anchor, 0.3, keep=keep), weights.lerp(anchor.float(), 0.3))


def test_long_tensors_are_averaged_in_pieces_of_the_same_result() -> None:
    torch.manual_seed(0)
    weights, anchor = torch.randn((1 << 22) + 5), torch.randn((1 << 22) + 5).bfloat16()
    assert torch.equal(pulled(weights, anchor, 0.3, keep="disk"), weights.lerp(anchor.float(), 0.3))
