"""An average that the next optimizer step undoes is detected; what an optimizer may do is not mistaken for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from stockpot import SFA, SFACallback, StockpotError


class Masters(torch.optim.Optimizer):
    """Steps on fp32 copies and writes them over the weights, as DeepSpeed's BF16_Optimizer does."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.masters = {p: p.detach().clone().float() for group in self.param_groups for p in group["params"]}
        self.inner = torch.optim.SGD(self.masters.values(), lr=lr)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p, master in self.masters.items():
            master.grad = None if p.grad is None else p.grad.float()
        for group in self.inner.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self.inner.step()
        for p, master in self.masters.items():
            p.copy_(master)


class Signs(torch.optim.Optimizer):
    """Lion without momentum: each weight moves by the learning rate, whichever way."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign())


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}


def train(model: nn.Module, optimizer: Any, sfa: SFA, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, 4, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        (model(x) - x[:, :2].sin()).float().pow(2).mean().backward()
        optimizer.step()
        sfa.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "optimizer="])
@pytest.mark.parametrize(("lr", "every"), [(0.0, 1), (0.0, 3), (1e-4, 3)])
def test_masters_that_come_back_are_detected_at_the_next_step(
    dtype: torch.dtype, known: bool, lr: float, every: int
) -> None:
    model = network(dtype)
    optimizer = Masters(model.parameters(), lr)
    settings: dict[str, Any] = {"optimizer": optimizer if known else None, "rounding": "nearest", "every": every}
    sfa = SFA(model, beta=0.25, anchor=zeros(model), **settings)
    train(model, optimizer, sfa, every)
    assert sfa.averages == 1
    with pytest.raises(StockpotError, match=r"^'\d\.(weight|bias)': the optimizer step after an average restored"):
        train(model, optimizer, sfa, 1)
    assert (sfa.steps, sfa.averages) == (every, 1)


def test_a_skipped_step_is_not_the_one_to_judge_by() -> None:
    model = network()
    optimizer = Masters(model.parameters(), lr=0.0)
    sfa = SFA(model, beta=0.25, every=2, anchor=zeros(model))
    assert not sfa.reach(1)
    assert sfa.reach(2)
    assert not sfa.reach(3, skipped=True)  # the weights are still where the average left them
    optimizer.step()
    with pytest.raises(StockpotError, match="restored the weights"):
        sfa.reach(4)


def test_masters_outside_a_torch_optimizer_are_detected_too() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    sfa = SFA(model, beta=0.25, every=1, anchor=zeros(model))
    masters = [tensor.detach().clone() for tensor in model.parameters()]
    train(model, optimizer, sfa, 1)
    optimizer.step()
    with torch.no_grad():
        for tensor, master in zip(model.parameters(), masters, strict=True):
            tensor.copy_(master)
    with pytest.raises(StockpotError, match="restored the weights"):
        sfa.step()


def test_a_learning_rate_that_only_later_uncovers_them_is_no_excuse() -> None:
    model = network()
    optimizer = Masters(model.parameters(), lr=0.1)
    sfa = SFA(model, beta=0.01, every=2)
    train(model, optimizer, sfa, 3)  # so small a pull tells nothing beside steps of that length
    assert sfa.averages == 1
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(StockpotError, match="restored the weights"):
        train(model, optimizer, sfa, 4)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=0.05),
    "signs": lambda params: Signs(params, lr=0.05),
    "still": lambda params: Signs(params, lr=0.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", MAKERS)
@pytest.mark.parametrize(("beta", "every"), [(1e-6, 1), (0.25, 1), (0.9, 1), (1.0, 1), (0.25, 7), (1.0, 7)])
def test_no_plain_optimizer_is_accused(optimizer: str, beta: float, every: int, dtype: torch.dtype) -> None:
    for anchor in ("start", None):
        model = network(dtype)
        made = MAKERS[optimizer](model.parameters())
        source: Any = anchor or zeros(model)
        sfa = SFA(model, beta=beta, every=every, anchor=source, rounding="nearest")
        train(model, made, sfa, 3 * every)
        assert sfa.averages == 3


def test_repeating_a_step_from_the_anchor_is_not_mistaken_for_masters() -> None:
    for kind in (torch.optim.SGD, Signs):
        model = nn.Linear(4, 4)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer = kind(model.parameters(), lr=0.1)
        sfa = SFA(model, beta=1.0, every=1)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(1, 4)).sum().backward()  # each step takes the weights to the very same place
            optimizer.step()
            sfa.step()
        assert torch.equal(model.weight, start["weight"])


def test_a_learning_rate_that_jumps_right_back_is_not_accused() -> None:
    model = nn.Linear(4, 4, bias=False)
    target = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sfa = SFA(model, beta=0.5, every=1, anchor={"weight": torch.zeros(4, 4)})
    for _ in range(4):
        optimizer.zero_grad()
        (model.weight - target).pow(2).sum().div(2).backward()
        optimizer.step()
        assert torch.equal(model.weight, target)  # Newton's step: all the way to where it was before the average
        sfa.step()
    assert sfa.averages == 4


def test_weights_that_are_frozen_or_loaded_after_the_average_are_not_accused() -> None:
    model = network()
    optimizer = Signs(model.parameters(), lr=0.0)
    sfa = SFA(model, beta=0.25, every=1, anchor=zeros(model))
    train(model, optimizer, sfa, 1)
    model[0].requires_grad_(False)
    train(model, torch.optim.SGD(model[2].parameters(), lr=0.0), sfa, 1)
    resumed = SFA(model, beta=0.25, every=1, anchor=zeros(model))
    resumed.load_state_dict(sfa.state_dict())
    train(model, torch.optim.SGD(model[2].parameters(), lr=0.0), resumed, 2)
    assert resumed.averages == 4


def test_nothing_is_changed_by_looking() -> None:
    """A training that resumes right after the first average, with nothing to compare with."""

    def steps(model: nn.Module, sfa: SFA, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            train(model, optimizer, sfa, 1, seed=step)

    model = network()
    sfa = SFA(model, beta=0.25, every=2)
    steps(model, sfa, 0, 2)
    saved, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, sfa.state_dict()
    steps(model, sfa, 2, 6)
    resumed = network()
    again = SFA(resumed, beta=0.25, every=2)
    resumed.load_state_dict(saved)
    again.load_state_dict(state)
    steps(resumed, again, 2, 6)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layers(x)[:, 0] - labels).pow(2).mean()}


def through_the_trainer(folder: Path, model: nn.Module, optimizer: Any) -> None:
    arguments = TrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=2, save_strategy="no", use_cpu=True, report_to="none",
        lr_scheduler_type="constant", disable_tqdm=True,
    )  # fmt: skip
    rows = [{"x": torch.randn(4), "labels": torch.randn(())} for _ in range(8)]
    callback = SFACallback(beta=0.25, every=2, anchor=zeros(model))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    Trainer(model, arguments, train_dataset=rows, callbacks=[callback], optimizers=(optimizer, schedule)).train()


def test_the_callback_detects_masters_and_an_optimizer_of_other_tensors(tmp_path: Path) -> None:
    model = Regression()
    with pytest.raises(StockpotError, match="restored the weights"):
        through_the_trainer(tmp_path, model, Masters(model.parameters(), lr=0.0))
    with pytest.raises(StockpotError, match="optimizer: SGD holds none of the model's own tensors"):
        through_the_trainer(tmp_path, model, torch.optim.SGD(Regression().parameters(), lr=0.1))


def test_an_optimizer_of_other_tensors_is_refused_before_the_first_step() -> None:
    model = network()
    masters = torch.optim.SGD([tensor.detach().float() for tensor in model.parameters()], lr=0.1)
    with pytest.raises(StockpotError, match="SGD holds none of the model's own tensors"):
        SFA(model, beta=0.25, every=1, optimizer=masters)
    SFA(model, beta=0.25, every=1, optimizer=torch.optim.SGD(model[2].parameters(), lr=0.1))  # the head alone


def test_deepspeed_is_recognised_by_its_optimizer_and_by_its_marks_on_the_module() -> None:
    model = network(torch.bfloat16)
    optimizer = type("BF16_Optimizer", (torch.optim.SGD,), {"__module__": "deepspeed.runtime.bf16_optimizer"})
    with pytest.raises(StockpotError, match="DeepSpeed's BF16_Optimizer keeps fp32 copies"):
        SFA(model, beta=0.25, every=1, rounding="nearest", optimizer=optimizer(model.parameters(), lr=0.1))

    def hook(module: nn.Module, inputs: Any) -> None: ...

    hook.__module__ = "deepspeed.runtime.engine"
    model.register_forward_pre_hook(hook)  # as an engine does to its module
    with pytest.raises(StockpotError, match="DeepSpeed keeps fp32 copies"):
        SFA(model, beta=0.25, every=1, rounding="nearest")
    SFA(model.float(), beta=0.25, every=1)  # stage 0 in fp32 keeps none
