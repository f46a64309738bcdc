"""What SFA cannot do correctly it refuses by name, in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stockpot import SFA, StockpotError


def refusal(model: Any, **settings: Any) -> str:
    with pytest.raises(StockpotError) as caught:
        SFA(model, **{"beta": 0.1, "every": 1, **settings})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_meta_tensors() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    assert "'weight' is a meta tensor" in refusal(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_without_rounding(dtype: torch.dtype) -> None:
    message = refusal(nn.Linear(2, 2).to(dtype))
    assert f"'weight' is {str(dtype)[6:]}" in message
    assert "rounding='stochastic'" in message


def test_stochastic_rounding_of_fp16() -> None:
    assert "rounding='nearest'" in refusal(nn.Linear(2, 2).half(), rounding="stochastic")


def test_deepspeed_parameters() -> None:
    model = nn.Linear(2, 2)
    model.weight.ds_id = 0
    assert "'weight' belongs to DeepSpeed" in refusal(model)
    engine = type("DeepSpeedEngine", (nn.Module,), {"__module__": "deepspeed.runtime.engine"})()
    assert "DeepSpeed keeps fp32 copies" in refusal(engine)


def test_lazy_complex_and_eight_bit_parameters() -> None:
    assert "'weight' has no shape yet" in refusal(nn.LazyLinear(2))
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    assert "'w' is a trainable torch.complex64" in refusal(module)
    module.w = nn.Parameter(torch.zeros(2, dtype=torch.float8_e4m3fn))
    assert "'w' is a trainable torch.float8_e4m3fn" in refusal(module)


def test_nothing_trainable_and_no_module() -> None:
    assert "nothing to average" in refusal(nn.Linear(2, 2).requires_grad_(False))
    assert "nothing to average" in refusal(nn.BatchNorm1d(2).requires_grad_(False))
    assert "needs a torch.nn.Module, not dict" in refusal({})


def test_two_tensors_of_one_clean_name() -> None:
    model = nn.Module()
    model.module = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(2))
    assert "two tensors are called 'weight'" in refusal(model)
    anchor = {"weight": torch.zeros(2, 2), "module.weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    assert "the anchor holds 'weight' twice" in refusal(nn.Linear(2, 2), anchor=anchor)


def test_settings_out_of_range() -> None:
    model = nn.Linear(2, 2)
    assert "keep must be one of None, 'device', 'cpu', 'disk', not 'gpu'" in refusal(model, keep="gpu")
    assert "rounding must be one of" in refusal(model, rounding="up")
    assert "buffers must be one of 'average', 'keep'" in refusal(model, buffers=None)
    assert "needs optimizer=" in refusal(model, reset_optimizer=True)
    assert "anchor must be 'start', a path or a state dict, not int" in refusal(model, anchor=3)
    assert "does not exist" in refusal(model, anchor="no/such/folder")
    integers = {"weight": torch.zeros(2, 2, dtype=torch.uint8), "bias": torch.zeros(2)}
    assert "'weight' is torch.uint8 in the anchor" in refusal(model, anchor=integers)


def test_a_step_beyond_the_last() -> None:
    sfa = SFA(nn.Linear(2, 2), beta=0.1, p=1, total_steps=2)
    sfa.step()
    sfa.step()
    with pytest.raises(StockpotError, match="step 3 is beyond total_steps=2"):
        sfa.step()
