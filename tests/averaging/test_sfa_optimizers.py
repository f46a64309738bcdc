"""Optimizers that keep a copy of the weights: it is averaged too, or the optimizer is refused (docs/optimizers.md)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stockpot import SFA, StockpotError

PAGE = Path(__file__).parents[2] / "docs" / "optimizers.md"


class ScheduleFree(Optimizer):
    """SGD of "The Road Less Scheduled" (arXiv 2405.15682), in the interface of the package `schedulefree`.

    y = (1−m)z + m·x is what the model holds while it trains; z ← z − γ·g(y), x ← (1−1/t)x + z/t; `eval()` shows x.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "k": 0, "weight_sum": 0.0, "train_mode": True})

    @torch.no_grad()
    def eval(self) -> None:
        self._show(False, lambda momentum: 1 - 1 / momentum)

    @torch.no_grad()
    def train(self) -> None:
        self._show(True, lambda momentum: 1 - momentum)

    def _show(self, training: bool, weight: Callable[[float], float]) -> None:
        for group in self.param_groups:
            if group["train_mode"] is not training:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], weight(group["momentum"]))
                group["train_mode"] = training

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["k"] += 1
            group["weight_sum"] += group["lr"] ** 2
            c = group["lr"] ** 2 / group["weight_sum"] if group["weight_sum"] else 0.0
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.detach().clone())
                p.lerp_(z, c).add_(p.grad, alpha=group["lr"] * (group["momentum"] * (1 - c) - 1))
                z.sub_(p.grad, alpha=group["lr"])


class Lookahead:
    """Wraps an optimizer: every 5 steps slow ← slow + (fast − slow)/2 and fast ← slow (arXiv 1907.08610), as timm's."""

    def __init__(self, base: Optimizer) -> None:
        self._base_optimizer, self.param_groups, self.state, self.steps = base, base.param_groups, base.state, 0

    @torch.no_grad()
    def step(self) -> None:
        self._base_optimizer.step()
        self.steps += 1
        if self.steps % 5 == 0:
            for p in (p for group in self.param_groups for p in group["params"]):
                slow = self.state[p].setdefault("lookahead_slow_buff", p.detach().clone())
                p.copy_(slow.lerp_(p, 0.5))


class MasterInState(Optimizer):
    """fp32 masters in the optimizer's state, as apex's and Transformer Engine's FusedAdam keep them."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                master = self.state[p].setdefault("master_param", p.detach().float().clone())
                p.copy_(master.sub_(p.grad.float(), alpha=group["lr"]))


class Offloaded(Optimizer):
    """The weights' masters on the host, as torchao's CPUOffloadOptimizer keeps them; that one needs a GPU."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        params = list(params)
        self.param_d2h_map = {p: p.detach().clone() for p in params}
        self.optim_dict = {p: SGD([host], lr=lr) for p, host in self.param_d2h_map.items()}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for inner in self.optim_dict.values() for group in inner.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p, host in self.param_d2h_map.items():
            host.grad = p.grad
            self.optim_dict[p].step()
            p.copy_(host)


class DualAveraging(Optimizer):
    """p ← 0.9·p + 0.1·(x0 − s), as MADGRAD with momentum and D-Adaptation's SGD do."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                x0 = state.setdefault("x0", p.detach().clone())
                s = state.setdefault("s", torch.zeros_like(p)).add_(p.grad, alpha=group["lr"])
                p.lerp_(x0 - s, 0.1)


IMITATED: dict[str, Callable[[Any], Any]] = {
    "torch.optim.AdamW": lambda params: AdamW(params, lr=0.01),
    "torch.optim.ASGD": lambda params: torch.optim.ASGD(params, lr=0.01, t0=2),
    "ScheduleFree": lambda params: ScheduleFree(params, lr=0.1),
    "Lookahead": lambda params: Lookahead(AdamW(params, lr=0.01)),
    "MasterInState": lambda params: MasterInState(params, lr=0.1),
}
SGD_OF = "base"  # wrappers take an optimizer in place of parameters
INSTALLED = {  # name → its arguments
    "schedulefree.AdamWScheduleFree": {"lr": 0.01},
    "schedulefree.SGDScheduleFree": {"lr": 0.01},
    "schedulefree.RAdamScheduleFree": {"lr": 0.01},
    "schedulefree.AdamWScheduleFreePaper": {"lr": 0.01},
    "schedulefree.AdamWScheduleFreeReference": {"lr": 0.01},
    "schedulefree.SGDScheduleFreeReference": {"lr": 0.01},
    "schedulefree.ScheduleFreeWrapper": {SGD_OF: 0.01},
    "schedulefree.ScheduleFreeWrapperReference": {SGD_OF: 0.01},
    "pytorch_optimizer.ScheduleFreeAdamW": {"lr": 0.01},
    "pytorch_optimizer.ScheduleFreeSGD": {"lr": 0.01},
    "pytorch_optimizer.ScheduleFreeRAdam": {"lr": 0.01},
    "pytorch_optimizer.ScheduleFreeWrapper": {SGD_OF: 0.01},
    "pytorch_optimizer.Lookahead": {SGD_OF: 0.01},
    "pytorch_optimizer.Ranger": {"lr": 0.01},
    "timm.optim.Lookahead": {SGD_OF: 0.01},
    "madgrad.MirrorMADGRAD": {"lr": 0.01},
    "prodigyopt.Prodigy": {"lr": 1.0},
    "dadaptation.DAdaptAdam": {"lr": 1.0},
    "dadaptation.DAdaptLion": {"lr": 1.0},
    "lion_pytorch.Lion": {"lr": 0.01},
    "torchao.optim.AdamW8bit": {"lr": 0.01},
    "torchao.optim.AdamW4bit": {"lr": 0.01},
    "torchao.optim.AdamWFp8": {"lr": 0.01},
    "torchao.optim._AdamW": {"lr": 0.01, "bf16_stochastic_round": True},
    "bitsandbytes.optim.AdamW8bit": {"lr": 0.01},
    "bitsandbytes.optim.PagedAdamW8bit": {"lr": 0.01},
    "bitsandbytes.optim.AdamW": {"lr": 0.01},
    "bitsandbytes.optim.Lion8bit": {"lr": 0.01},
    "bitsandbytes.optim.AdEMAMix": {"lr": 0.01},
    "transformers.optimization.Adafactor": {"lr": 0.01, "relative_step": False, "scale_parameter": False},
}
REFUSED = {
    "madgrad.MADGRAD": {"lr": 0.01},
    "dadaptation.DAdaptSGD": {"lr": 1.0},
    "dadaptation.DAdaptAdaGrad": {"lr": 1.0},
    "pytorch_optimizer.SPlus": {"lr": 0.01},
    "pytorch_optimizer.SRMM": {"lr": 0.01},
    "pytorch_optimizer.AccSGD": {"lr": 0.01},
    "pytorch_optimizer.FTRL": {"lr": 0.01},
    "pytorch_optimizer.TRAC": {SGD_OF: 0.01},
}


def installed(name: str, arguments: dict[str, Any], params: Any) -> Any:
    module, _, kind = name.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), kind)
    except ImportError:
        pytest.skip(f"{module} is not installed")
    if SGD_OF in arguments:
        return made(SGD(params, lr=arguments[SGD_OF]))
    return made(params, **arguments)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)).to(dtype)


def switch(optimizer: Any, mode: str) -> None:
    if callable(getattr(optimizer, mode, None)):
        getattr(optimizer, mode)()


def steps(model: nn.Module, optimizer: Any, sfa: SFA, many: int, first: int = 0) -> None:
    for step in range(first, first + many):
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(step)).to(model[0].weight.dtype)
        for tensor in model.parameters():
            tensor.grad = None
        (model(x) - x.sin()).pow(2).mean().backward()
        optimizer.step()
        sfa.step()


def no_rate(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        for key in {"lr", "eta"} & group.keys():
            group[key] = group[key].fill_(0.0) if torch.is_tensor(group[key]) else 0.0
        group["weight_decay"] = 0.0


def check_the_anchor_comes_back_and_stays(make: Callable[[Any], Any], known: bool, dtype: torch.dtype) -> None:
    """β = 1: the weights that the optimizer returns are the anchor, and steps of length 0 leave them there."""
    model = network(dtype)
    optimizer = make(list(model.parameters()))
    switch(optimizer, "train")
    sfa = SFA(model, beta=1.0, every=7, rounding="nearest", optimizer=optimizer if known else None)
    steps(model, optimizer, sfa, 7)
    assert sfa.averages == 1
    switch(optimizer, "eval")
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, sfa.anchor[name])
    switch(optimizer, "train")
    no_rate(optimizer)
    for state in getattr(optimizer, "state", {}).values():
        if isinstance(state, dict) and "eta" in state:  # ASGD's rate of the next step
            state["eta"].zero_()
    steps(model, optimizer, sfa, 6, first=7)  # over a boundary of Lookahead's
    switch(optimizer, "eval")
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(tensor.detach(), sfa.anchor[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("known", [True, False], ids=["optimizer=", "seen"])
@pytest.mark.parametrize("name", IMITATED)
def test_copies_of_the_weights_are_averaged(name: str, known: bool, dtype: torch.dtype) -> None:
    check_the_anchor_comes_back_and_stays(IMITATED[name], known, dtype)


@pytest.mark.parametrize("known", [True, False], ids=["optimizer=", "seen"])
@pytest.mark.parametrize("name", INSTALLED)
def test_copies_of_the_weights_are_averaged_in_the_packages_that_are_installed(name: str, known: bool) -> None:
    check_the_anchor_comes_back_and_stays(lambda params: installed(name, INSTALLED[name], params), known, torch.float32)


def test_schedule_free_is_averaged_in_its_own_terms() -> None:
    beta, rate, m, every = 0.25, 0.1, 0.9, 4
    start = torch.randn(9, dtype=torch.float64)
    target = torch.randn(9, dtype=torch.float64)
    model = nn.Linear(9, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(start[None])
    optimizer = ScheduleFree(model.parameters(), lr=rate, momentum=m)
    sfa = SFA(model, beta=beta, every=every, optimizer=optimizer)
    x, z = start.clone(), start.clone()
    for step in range(1, 13):
        model.weight.grad = (model.weight.detach() - target) * 0.7
        optimizer.step()
        y = (1 - m) * z + m * x
        z = z - rate * 0.7 * (y - target)
        x = x + (z - x) / step
        assert sfa.step() is (step % every == 0)
        if step % every == 0:
            x, z = x.lerp(start, beta), z.lerp(start, beta)
            if step == 8:  # an average between eval() and train() acts on x and z alike
                optimizer.eval()
                sfa.average()
                optimizer.train()
                x, z = x.lerp(start, beta), z.lerp(start, beta)
    optimizer.eval()
    torch.testing.assert_close(model.weight.detach()[0], x, rtol=1e-12, atol=1e-13)


def test_masters_on_the_host_are_averaged_if_known_and_detected_if_not() -> None:
    model = network()
    anchor = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    optimizer = Offloaded(model.parameters(), lr=0.0)
    sfa = SFA(model, beta=0.5, every=1, anchor=anchor, optimizer=optimizer)
    start = model[0].weight.detach().clone()
    steps(model, optimizer, sfa, 3)
    torch.testing.assert_close(model[0].weight.detach(), start / 8)
    unknown = SFA(model, beta=0.5, every=1, anchor=anchor)
    with pytest.raises(StockpotError, match="restored the weights from before it, from copies kept elsewhere"):
        steps(model, optimizer, unknown, 2)


@pytest.mark.parametrize("known", [True, False], ids=["optimizer=", "seen"])
@pytest.mark.parametrize("name", ["DualAveraging", *REFUSED])
def test_what_would_undo_an_average_bit_by_bit_is_refused(name: str, known: bool) -> None:
    model = network()
    params = list(model.parameters())
    optimizer = DualAveraging(params, 0.1) if name == "DualAveraging" else installed(name, REFUSED[name], params)
    switch(optimizer, "train")
    with pytest.raises(StockpotError, match=rf"{name.rpartition('.')[2]} .*choose an optimizer that steps"):
        sfa = SFA(model, beta=0.5, every=2, optimizer=optimizer if known else None)
        steps(model, optimizer, sfa, 2)


def test_a_model_of_swa_utils_beside_the_trained_one_does_not_matter() -> None:
    def train(with_ema: bool) -> nn.Module:
        model = network()
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        optimizer = SGD(model.parameters(), lr=0.1)
        sfa = SFA(model, beta=0.25, every=2)
        for step in range(6):
            steps(model, optimizer, sfa, 1, first=step)
            if with_ema:
                ema.update_parameters(model)
        return model

    for a, b in zip(train(True).parameters(), train(False).parameters(), strict=True):
        assert torch.equal(a, b)


def test_forgetting_the_optimizer_s_state_forgets_its_copies_too() -> None:
    model = network()
    start = model[0].weight.detach().clone()
    optimizer = ScheduleFree(model.parameters(), lr=0.1)
    sfa = SFA(model, beta=1.0, every=2, optimizer=optimizer, reset_optimizer=True)
    steps(model, optimizer, sfa, 2)
    assert not any(optimizer.state.values())
    optimizer.eval()
    assert torch.equal(model[0].weight, start)


def test_the_page_names_every_optimizer_that_is_tested_here() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in (*INSTALLED, *REFUSED):
        package, kind = name.split(".")[0], name.rpartition(".")[2]
        assert re.search(rf"`{package}[^\n]*\b{kind}\b", page), name
