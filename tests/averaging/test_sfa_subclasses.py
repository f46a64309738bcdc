"""A frozen base may be of any tensor type: an average touches only what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stockpot import SFA, StockpotError


class Int8(Tensor):
    """Reports fp32 but holds int8 and a scale, as weights of torchao and other quantisers do; it has no storage."""

    @staticmethod
    def __new__(cls, values: Tensor, scale: Tensor) -> Int8:
        made: Int8 = Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)
        return made

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.values, self.scale = values, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].values, args[0].scale)
        dense = [value.values * value.scale if isinstance(value, cls) else value for value in args]
        return function(*dense, **(kwargs or {}))


def quantised(tensor: Tensor) -> Int8:
    scale = tensor.detach().abs().max() / 127
    return Int8((tensor.detach() / scale).round().to(torch.int8), scale)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    model[0].weight = nn.Parameter(quantised(model[0].weight), requires_grad=False)
    return model


def test_what_is_trained_beside_a_quantised_layer_is_averaged() -> None:
    model = network()
    base = model[0].weight.values.clone()
    start = model[2].weight.detach().clone()
    sfa = SFA(model, beta=0.25, every=1)
    optimizer = torch.optim.SGD([tensor for tensor in model.parameters() if tensor.requires_grad], lr=0.1)
    model(torch.ones(3, 6)).square().sum().backward()
    optimizer.step()
    tuned = model[2].weight.detach().clone()
    sfa.step()
    torch.testing.assert_close(model[2].weight.detach(), 0.75 * tuned + 0.25 * start)
    assert torch.equal(model[0].weight.values, base)
    assert "0.weight" not in sfa.anchor


@pytest.mark.parametrize("target", ["0", "1"], ids=["on the quantised layer", "beside it"])
def test_lora_on_a_quantised_base(target: str) -> None:
    model = get_peft_model(network(), LoraConfig(r=2, target_modules=[target]))
    sfa = SFA(model, beta=0.25, every=1)
    b = next(tensor for name, tensor in model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        b.fill_(1.0)
    sfa.step()
    assert torch.equal(b.detach(), torch.full_like(b, 0.75))
    assert sfa.factors == 1


def test_buffers_that_are_quantised_stay_as_they_are() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("table", quantised(torch.randn(4, 4)))
    model.register_buffer("codes", torch.ones(4, dtype=torch.float8_e4m3fn))
    model.register_buffer("mean", torch.ones(4))
    sfa = SFA(model, beta=0.5, every=1)
    model.mean.fill_(3.0)
    sfa.step()
    assert set(sfa.anchor) == {"weight", "bias", "mean"}
    assert torch.equal(model.mean, torch.full((4,), 2.0))


def test_frozen_tensors_without_memory_do_not_matter() -> None:
    model = nn.Linear(2, 2)
    with FakeTensorMode():
        fake = torch.zeros(2)
    for name, tensor in (("fake", fake), ("meta", torch.zeros(2, device="meta")), ("sparse", torch.eye(2).to_sparse())):
        model.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
    sfa = SFA(model, beta=1.0, every=1)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    sfa.step()
    assert torch.equal(model.weight.detach(), start)


def refusal(model: nn.Module, **settings: Any) -> str:
    with pytest.raises(StockpotError) as caught:
        SFA(model, **{"beta": 0.1, "every": 1, **settings})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_trained_without_memory_of_its_own_is_refused_by_name() -> None:
    model = network()
    model[0].weight.requires_grad_(True)
    assert "'0.weight' is a trainable Int8, quantised" in refusal(model)
    with FakeTensorMode():
        fake = nn.Linear(2, 2)
    assert "'weight' is a FakeTensor without memory of its own" in refusal(fake)
    sparse = nn.Linear(2, 2)
    sparse.table = nn.Parameter(torch.eye(2).to_sparse())
    assert "'table' is a sparse tensor without memory of its own" in refusal(sparse)
    buffered = nn.Linear(2, 2)
    buffered.register_buffer("mean", torch.zeros(2, device="meta"))
    assert "'mean' is a meta tensor without data" in refusal(buffered)


def test_an_anchor_without_numbers_of_its_own_is_refused_by_name() -> None:
    model, plain = network().requires_grad_(False), nn.Linear(6, 5)
    quantised_anchor = {name.removeprefix("0."): tensor for name, tensor in model.state_dict().items()}
    assert "'weight' is quantised (Int8) in the anchor" in refusal(plain, anchor=quantised_anchor)
    empty = {name: tensor.to("meta") for name, tensor in plain.state_dict().items()}
    assert "'weight' has no data of its own in the anchor" in refusal(plain, anchor=empty)
