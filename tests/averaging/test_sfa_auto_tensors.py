"""`beta="auto"` for every kind of tensor: grown, frozen, tied, sparse, half precision, buffers, sharded, LoRA."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from ranks import on_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import GPT2Config, GPT2LMHeadModel

from stockpot import SFA, StockpotError
from stockpot.averaging.auto_beta import DAMPING
from stockpot.averaging.past_importance import PastImportance


def drawn(model: nn.Module, seed: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=draws, dtype=torch.float64)
        for name, tensor in model.named_parameters()
    }


def one_step(sfa: SFA, model: nn.Module, step: int = 1, seed: int = 1) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Drawn gradients, a drawn step, and SFA's turn; returns gradients and the weights before the average."""
    gradients, moves = drawn(model, seed), drawn(model, seed + 100)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.requires_grad:
                tensor.grad = gradients[name].to(tensor.dtype)
                tensor.add_(moves[name].to(tensor.dtype))
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    sfa.reach(step)
    return gradients, before


def kept(v: Tensor, past: Tensor | float, e: float, tasks: int = 1) -> Tensor:
    return (v + e) / (v + e + past + tasks * e)


def test_rows_that_a_head_has_grown_are_left_alone_and_start_at_0() -> None:
    model = nn.Linear(3, 5).double()
    anchor = {"weight": torch.zeros(3, 3).double(), "bias": torch.zeros(3).double()}
    past = {"weight": torch.rand(3, 3).double(), "bias": torch.rand(3).double()}
    sfa = SFA(
        model, beta="auto", p=1, total_steps=1, anchor=anchor, new=["*"], importance=PastImportance(past, 2)
    )  # fmt: skip
    g, before = one_step(sfa, model)
    v = {name: gradient.square() for name, gradient in g.items()}
    old = torch.cat([v["weight"][:3].flatten(), v["bias"][:3]])
    omega = torch.cat([past["weight"].flatten(), past["bias"]])
    e = DAMPING / 2 * float(old.mean() + omega.mean() / 2)  # over the weights that are averaged
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(tensor[:3], kept(v[name][:3], past[name], e, 2) * before[name][:3])
        assert torch.equal(tensor[3:], before[name][3:])
        after = sfa.importance().tensors[name]
        torch.testing.assert_close(after[:3], past[name] + v[name][:3])
        torch.testing.assert_close(after[3:], v[name][3:])


def test_a_tensor_that_the_past_froze_counts_as_the_mean_of_what_is_known() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    past = {name: torch.rand_like(tensor) for name, tensor in model.named_parameters() if name.startswith("0.")}
    start = copy.deepcopy(model.state_dict())
    sfa = SFA(model, beta="auto", p=1, total_steps=1, importance=PastImportance(past, 1))
    g, before = one_step(sfa, model)
    mean = torch.cat([tensor.flatten() for tensor in past.values()]).mean()
    v = torch.cat([gradient.square().flatten() for gradient in g.values()])
    e = DAMPING / 2 * float(v.mean() + mean)
    for name, tensor in model.named_parameters():
        share = kept(g[name].square(), past.get(name, mean), e)
        torch.testing.assert_close(tensor, start[name] + share * (before[name] - start[name]))
        torch.testing.assert_close(sfa.importance().tensors[name], g[name].square() + past.get(name, mean))


def test_frozen_tensors_stay_and_keep_their_importance() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    past = {name: torch.rand_like(tensor) for name, tensor in model.named_parameters()}
    model[0].requires_grad_(False)
    start = copy.deepcopy(model.state_dict())
    sfa = SFA(model, beta="auto", p=1, total_steps=1, importance=PastImportance(past, 1))
    one_step(sfa, model)
    after = sfa.importance().tensors
    for name in ("0.weight", "0.bias"):
        assert torch.equal(model.state_dict()[name], start[name])
        assert torch.equal(after[name], past[name])
    assert not torch.equal(after["1.weight"], past["1.weight"])


def test_a_weight_without_a_gradient_counts_as_v_0() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    start, past = copy.deepcopy(model.state_dict()), {name: torch.rand_like(t) for name, t in model.named_parameters()}
    sfa = SFA(model, beta="auto", p=1, total_steps=1, importance=PastImportance(past, 1))
    model[0].weight.grad = torch.ones_like(model[0].weight)
    with torch.no_grad():
        model[1].weight.add_(1.0)
    sfa.reach(1)
    e = DAMPING / 2 * float(12 / 26 + torch.cat([tensor.flatten() for tensor in past.values()]).mean())
    share = kept(torch.zeros(2, 4).double(), past["1.weight"], e)
    torch.testing.assert_close(model[1].weight.detach(), start["1.weight"] + share)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_a_tied_weight_is_weighed_once_with_its_whole_gradient() -> None:
    model = Tied().double()
    start = model.embed.weight.detach().clone()
    sfa = SFA(model, beta="auto", p=1, total_steps=1)
    model.head(model.embed(torch.tensor([0, 1, 1]))).square().sum().backward()
    v = model.embed.weight.grad.square()  # type: ignore[union-attr]
    with torch.no_grad():
        model.embed.weight.add_(1.0)
    sfa.reach(1)
    torch.testing.assert_close(model.head.weight.detach(), start + kept(v, float(v.mean()), DAMPING * float(v.mean())))
    importance = sfa.importance()
    assert list(importance.tensors) == ["embed.weight"]
    under_its_other_name = PastImportance({"head.weight": importance.tensors["embed.weight"]}, 2)
    again = SFA(model, beta="auto", p=1, total_steps=1, importance=under_its_other_name)
    again.reach(1)
    torch.testing.assert_close(again.importance().tensors["embed.weight"], importance.tensors["embed.weight"] + v)


def test_sparse_gradients_are_summed_before_they_are_squared() -> None:
    model = nn.Embedding(6, 3, sparse=True).double()
    dense = nn.Embedding(6, 3).double()
    dense.load_state_dict(model.state_dict())
    sfas = [SFA(each, beta="auto", p=1, total_steps=2) for each in (model, dense)]
    for step, ids in enumerate((torch.tensor([1, 1, 4]), torch.tensor([4, 0])), start=1):
        for sfa, each in zip(sfas, (model, dense), strict=True):
            each.zero_grad()
            (each(ids) * torch.arange(3)).square().sum().backward()
            with torch.no_grad():
                each.weight.add_(0.5)
            sfa.reach(step)
    assert model.weight.grad.is_sparse  # type: ignore[union-attr]
    torch.testing.assert_close(model.weight, dense.weight)
    assert torch.equal(sfas[0].importance().tensors["weight"], sfas[1].importance().tensors["weight"])


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_running_statistics_are_averaged_as_if_all_tasks_were_equal(tasks: int, strength: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    past = {name: torch.rand_like(tensor) for name, tensor in model.named_parameters()}
    sfa = SFA(model, beta="auto", p=1, total_steps=1, importance=PastImportance(past, tasks), strength=strength)
    model[1].running_mean.fill_(2.0)  # type: ignore[union-attr,operator]
    one_step(sfa, model)
    torch.testing.assert_close(model[1].running_mean, torch.full((4,), 2 / (1 + strength * tasks)).double())


def test_patterns_mix_numbers_and_auto() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    start = copy.deepcopy(model.state_dict())
    sfa = SFA(model, beta={"1.*": 0.25, "*": "auto"}, p=1, total_steps=1)
    g, before = one_step(sfa, model)
    v = torch.cat([g[name].square().flatten() for name in ("0.weight", "0.bias")])
    share = kept(g["0.weight"].square(), float(v.mean()), DAMPING * float(v.mean()))
    torch.testing.assert_close(
        model[0].weight.detach(), start["0.weight"] + share * (before["0.weight"] - start["0.weight"])
    )
    torch.testing.assert_close(model[1].weight.detach(), 0.75 * before["1.weight"] + 0.25 * start["1.weight"])


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_bf16_weights_are_weighed_in_fp32_and_rounded(rounding: Any) -> None:
    model = nn.Linear(64, 64).bfloat16()
    start = model.weight.detach().clone()
    sfa = SFA(model, beta="auto", p=1, total_steps=1, rounding=rounding)
    g, before = one_step(sfa, model)
    v = {name: gradient.bfloat16().float().square() for name, gradient in g.items()}
    mean = float(torch.cat([tensor.flatten() for tensor in v.values()]).mean())
    share = kept(v["weight"], mean, DAMPING * mean)
    exact = start.float() + share * (before["weight"].float() - start.float())
    off = (model.weight.detach().float() - exact).abs() / exact.abs().clamp(min=1e-3)
    assert float(off.max()) < 2 ** (-8 if rounding == "nearest" else -7)
    assert sfa.importance().tensors["weight"].dtype == torch.float32
    if rounding == "stochastic":
        other = (model.weight.detach() != exact.bfloat16()).float().mean()
        assert 0.1 < float(other) < 0.5  # nearest is not always the one that was drawn


def test_channels_last_and_cut_tensors_give_what_whole_ones_give() -> None:
    """The average works piece by piece; a piece ends within each of these tensors."""
    models = [nn.Sequential(nn.Conv2d(16, 700, 3, bias=False)).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start = models[0][0].weight.detach().clone()
    for model in models:
        g, before = one_step(SFA(model, beta="auto", p=1, total_steps=1), model)
        v = g["0.weight"].square()
        share = kept(v, float(v.mean()), DAMPING * float(v.mean()))
        torch.testing.assert_close(model[0].weight.detach(), start + share * (before["0.weight"] - start))


def sharded() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(13, 31), nn.Linear(31, 1)).double()


def test_shards_are_weighed_as_the_whole(tmp_path: Path) -> None:
    whole = sharded()
    past = PastImportance({name: tensor.square() for name, tensor in drawn(whole, 7).items()}, 2)
    expected = SFA(whole, beta="auto", p=0.5, total_steps=2, importance=past)
    for step in (1, 2):
        one_step(expected, whole, step, seed=step)

    def work(rank: int) -> dict[str, Any]:
        model = sharded()
        mesh = init_device_mesh("cpu", (2,))
        for module in model.children():
            for name, tensor in list(module.named_parameters()):
                placed = distribute_tensor(tensor.detach(), mesh, [Shard(0)])
                setattr(module, name, nn.Parameter(placed))
        sfa = SFA(model, beta="auto", p=0.5, total_steps=2, importance=past)
        for step in (1, 2):
            gradients, moves = drawn(sharded(), step), drawn(sharded(), step + 100)
            with torch.no_grad():
                for name, tensor in model.named_parameters():
                    assert isinstance(tensor, DTensor)
                    tensor.grad = distribute_tensor(gradients[name], mesh, tensor.placements, src_data_rank=None)
                    move = distribute_tensor(moves[name], mesh, tensor.placements, src_data_rank=None)
                    tensor.to_local().add_(move.to_local())
            sfa.reach(step)
        profile = sfa.beta_profile()
        assert profile is not None
        weights = {name: tensor.detach().full_tensor().tolist() for name, tensor in model.named_parameters()}  # type: ignore[attr-defined]
        counts = [(each.tensor, each.weights, each.counts) for each in profile.tensors]
        omega = {name: tensor.tolist() for name, tensor in sfa.importance().tensors.items()}
        return {"weights": weights, "omega": omega, "counts": counts, "kept": profile.kept}

    profile = expected.beta_profile()
    assert profile is not None
    assert profile.kept is not None
    for seen in on_ranks(work, tmp_path):
        for name, tensor in whole.named_parameters():
            weights = torch.tensor(seen["weights"][name], dtype=torch.float64)
            torch.testing.assert_close(weights, tensor.detach(), rtol=1e-13, atol=1e-13)
            assert seen["omega"][name] == expected.importance().tensors[name].tolist()
        assert seen["counts"] == [(each.tensor, each.weights, each.counts) for each in profile.tensors]
        assert seen["kept"] == pytest.approx(profile.kept, rel=1e-12)


def test_the_profile_counts_what_the_average_did() -> None:
    model = nn.Linear(40, 30).double()
    start = copy.deepcopy(model.state_dict())
    sfa = SFA(model, beta="auto", p=1, total_steps=1, strength=2.0)
    _, before = one_step(sfa, model)
    profile = sfa.beta_profile()
    assert profile is not None
    ways = {
        name: (before[name] - start[name], tensor.detach() - start[name]) for name, tensor in model.named_parameters()
    }
    betas = {name: 1 - now / way for name, (way, now) in ways.items()}
    for each in profile.tensors:
        beta = betas[each.tensor]
        assert each.weights == sum(each.counts) == beta.numel()
        assert each.mean == pytest.approx(float(beta.mean()), rel=1e-9)
        assert each.counts == torch.histc(beta.flatten(), 10, 0, 1).long().tolist()
    whole = torch.cat([way.flatten() for way, _ in ways.values()])
    left = torch.cat([now.flatten() for _, now in ways.values()])
    assert profile.kept == pytest.approx(float(left.norm() / whole.norm()), rel=1e-9)


def gpt2(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=32)).double()
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=6, fan_in_fan_out=True, **settings)).double()


def trained_a_step(model: nn.Module, seed: int, rate: float) -> None:
    """One step of gradient descent, whose gradients stay."""
    ids = torch.randint(32, (4, 8), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.grad is not None:
                tensor.sub_(rate * tensor.grad)


@pytest.mark.parametrize("target", ["c_attn", "wte"])
def test_under_lora_each_row_of_the_change_is_weighed(target: str) -> None:
    """ΔW keeps the same share of each row: the rule for whole weights, where a row's weights are alike."""
    settings = {"fan_in_fan_out": False} if target == "wte" else {}
    model = gpt2(target_modules=[target]) if not settings else get_peft_model(
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=32)).double(),
        LoraConfig(r=4, lora_alpha=6, target_modules=["wte"]),
    ).double()  # fmt: skip
    layer = next(module for name, module in model.named_modules() if name.endswith(target))
    sfa = SFA(model, beta="auto", p=1, total_steps=2)
    scale, squares = layer.scaling["default"] ** 2, []
    for step in (1, 2):
        trained_a_step(model, step, rate=0.5)
        if target == "wte":
            gradient, other = layer.lora_embedding_A["default"].grad.T, layer.lora_embedding_B["default"]
        else:
            gradient, other = layer.lora_B["default"].weight.grad, layer.lora_A["default"].weight
        squares.append(gradient.square().sum(1) / (scale * other.detach().square().sum()))
        before = layer.get_delta_weight("default").detach().clone()
        sfa.reach(step)
    after = layer.get_delta_weight("default").detach()
    v = torch.stack(squares).mean(0)
    share = kept(v, float(v.mean()), DAMPING * float(v.mean()))
    rows = share[:, None] if target == "wte" else share[None, :]  # GPT-2 stores its weights as (in, out)
    torch.testing.assert_close(after, rows * before)
    (name, omega), *rest = sfa.importance().tensors.items()
    assert rest == []
    torch.testing.assert_close(omega, v + v.mean())
    profile = sfa.beta_profile()
    assert profile is not None
    assert profile.tensors[0].weights == before.numel()
    assert profile.kept == pytest.approx(float(after.norm() / before.norm()), rel=1e-9)
    assert name in dict(model.named_parameters())


def test_a_row_of_lora_has_the_unit_of_whole_weights() -> None:
    """The mean over A of ‖∂L/∂B[o]‖²/(s²‖A‖²) is the mean of (∂L/∂W)² over row o of W."""
    from stockpot.averaging.lora_factors import lora_factors
    from stockpot.averaging.squared_gradients import row_squares

    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(40, 6, bias=False)), LoraConfig(r=8, lora_alpha=3, target_modules=["0"])
    )
    layer = model.base_model.model[0]
    x, y = torch.randn(20, 40), torch.randn(20, 6)
    layer.base_layer.weight.requires_grad_(True)
    (model(x) - y).square().mean().backward()
    whole = layer.base_layer.weight.grad.square().mean(1)
    factor = next(factor for factor in lora_factors(model).values() if factor is not None)
    seen = []
    for _ in range(2000):
        nn.init.kaiming_uniform_(layer.lora_A["default"].weight, a=5**0.5)
        model.zero_grad()
        (model(x) - y).square().mean().backward()
        seen.append(row_squares(factor, layer.lora_B["default"].weight.grad))
    torch.testing.assert_close(torch.stack(seen).mean(0), whole, rtol=0.05, atol=0)


def test_adams_moments_do_not_serve_under_lora() -> None:
    model = gpt2(target_modules=["c_attn"])
    optimizer = torch.optim.AdamW([tensor for tensor in model.parameters() if tensor.requires_grad])
    sfa = SFA(model, beta="auto", p=1, total_steps=1, squares="adam", optimizer=optimizer)
    trained_a_step(model, 1, 0.0)
    optimizer.step()
    with pytest.raises(StockpotError, match="squares='observed'"):
        sfa.step()
