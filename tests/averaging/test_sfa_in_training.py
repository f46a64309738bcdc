"""SFA with common options of the Trainer: precision, clipping, checkpointing, compiling, stopping early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf_training
import pytest
import torch
from hf_training import Spy, weights
from torch import Tensor
from transformers import EarlyStoppingCallback, LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback

from stockpot import SFA, SFACallback, StockpotError
from stockpot.averaging.average import round_stochastically
from stockpot.weights.checkpoint import open_checkpoint

TOTAL = 8


def tiny(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=17, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype)


def trainer(folder: Path, *callbacks: TrainerCallback, model: Any = None, **settings: Any) -> Trainer:
    tokens = torch.randint(2, 17, (32, 6), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    chosen = {"max_steps": TOTAL, "gradient_accumulation_steps": 1, "save_strategy": "no", **settings}
    return hf_training.trainer(folder, *callbacks, model=tiny() if model is None else model, data=data, **chosen)


def train(folder: Path, *callbacks: TrainerCallback, **settings: Any) -> Tensor:
    training = trainer(folder, *callbacks, **settings)
    training.train()
    return weights(training.model)


def check_formula(before: Spy, after: Spy, start: Tensor, due: set[int]) -> None:
    assert len(before.seen) == TOTAL
    for step, (tuned, averaged) in enumerate(zip(before.seen, after.seen, strict=True), start=1):
        assert torch.equal(averaged, tuned.lerp(start, 0.25) if step in due else tuned)
        assert torch.equal(averaged, tuned) is (step not in due)


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        {"gradient_accumulation_steps": 2},
        {"max_grad_norm": 0.1},
        {"gradient_checkpointing": True},
        {"bf16": True, "gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "gradient_checkpointing": True},
    ],
    ids=["bf16", "accumulation", "clipping", "checkpointing", "all"],
)
def test_the_fp32_weights_are_averaged_exactly(settings: dict[str, Any], tmp_path: Path) -> None:
    before, after = Spy(), Spy()
    start = weights(tiny())
    result = train(tmp_path, before, SFACallback(beta=0.25, p=0.25), after, **settings)
    check_formula(before, after, start, {2, 4, 6, 8})
    assert result.dtype == torch.float32
    assert not torch.equal(result, result.bfloat16().float())  # no pass through bf16 on the way
    if "max_grad_norm" in settings:
        assert max(before.norms) < 0.1001
    else:
        assert max(before.norms) > 0.1001  # else the clipping above clips nothing


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    def run(checkpointing: bool) -> Tensor:
        callback = SFACallback(beta=0.25, p=0.25)
        return train(tmp_path, callback, gradient_checkpointing=checkpointing, model=tiny(torch.float64))

    torch.testing.assert_close(run(True), run(False), rtol=1e-12, atol=1e-12)


@pytest.mark.thorough  # test_sfa_what_is_averaged compiles a model; this crosses it with the Trainer
def test_a_compiled_model_is_averaged_to_the_same_weights_under_clean_names(tmp_path: Path) -> None:
    def run(folder: str, **settings: Any) -> tuple[Tensor, SFACallback]:
        callback = SFACallback(beta={"model.layers.0.*": 0.5, "*": 0.25}, p=0.25)
        saves = {"save_strategy": "steps", "save_steps": TOTAL}
        return train(tmp_path / folder, callback, **saves, **settings), callback

    plain, _ = run("plain")
    compiled, callback = run("compiled", torch_compile=True, torch_compile_backend="eager")
    torch.testing.assert_close(compiled, plain, rtol=1e-6, atol=1e-7)
    names = set(tiny().state_dict())
    assert set(callback.sfa.anchor) <= names
    assert not any("_orig_mod" in name for name in open_checkpoint(tmp_path / "compiled" / "sfa-anchor"))


def test_bf16_weights_are_refused_unless_a_rounding_is_chosen(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"is bfloat16, .* rounds away: load the weights in fp32 and train with"):
        train(tmp_path, SFACallback(beta=0.25, p=0.25), model=tiny(torch.bfloat16))
    nearest = train(tmp_path, SFACallback(beta=0.25, p=0.25, rounding="nearest"), model=tiny(torch.bfloat16))
    drawn = train(tmp_path, SFACallback(beta=0.25, p=0.25, rounding="stochastic"), model=tiny(torch.bfloat16))
    assert nearest.dtype == drawn.dtype == torch.bfloat16
    assert not torch.equal(nearest, drawn)


def pulled(weight: Tensor, anchor: Tensor, rounding: Any, draws: int) -> Tensor:
    """The mean over draws of one average with β = 0.1 on bf16 weights, in float64."""
    total = torch.zeros(weight.shape, dtype=torch.float64)
    for seed in range(draws):
        model = torch.nn.Module()
        model.w = torch.nn.Parameter(weight.clone())
        SFA(model, beta=0.1, every=1, anchor={"w": anchor}, rounding=rounding, seed=seed).step()
        total += model.w.detach().double()
    return total / draws


def test_a_pull_of_three_permille_is_wholly_lost_by_nearest_and_wholly_kept_by_stochastic() -> None:
    weight = torch.randn(2000).bfloat16()
    anchor = weight.float() * 1.003  # β·|θ_o − θ| / |θ| = 0.03 %, under half a unit in the last place of bf16
    exact = weight.double().lerp(anchor.double(), 0.1)
    assert torch.equal(pulled(weight, anchor, "nearest", 1), weight.double())
    draws = 400
    mean = pulled(weight, anchor, "stochastic", draws)
    ulp = torch.exp2(torch.floor(torch.log2(weight.double().abs())) - 7)
    up = (exact - weight.double()).abs() / ulp  # the chance to move by one unit in the last place
    assert (up > 0.03).all()
    error = ulp * (up * (1 - up) / draws).sqrt()
    assert ((mean - exact) / error).mean().abs() < 4 / len(weight) ** 0.5
    assert ((mean - exact).abs() / error).max() < 6  # of 2000 elements
    realised = ((mean - weight.double()) * anchor.sign()).sum() / ((exact - weight.double()) * anchor.sign()).sum()
    assert realised.item() == pytest.approx(
        1.0, abs=4 * error.norm().item() / (exact - weight.double()).abs().sum().item()
    )


def test_one_value_rounded_many_times_has_the_fp32_value_as_its_mean() -> None:
    value, draws = 1.0 + 0.3 * 2**-7, 100_000
    noise = torch.randint(1 << 16, (draws,), dtype=torch.int32)
    drawn = round_stochastically(torch.full((draws,), value), noise).double()
    assert set(drawn.tolist()) == {1.0, 1.0 + 2**-7}
    error = 2**-7 * (0.3 * 0.7 / draws) ** 0.5
    assert abs(drawn.mean().item() - value) < 4 * error


class Losses(TrainerCallback):
    """Makes each evaluation worse than the one before, so that the first stays the best."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        metrics["eval_loss"] = float(state.global_step)


def test_early_stopping_ends_with_an_average(tmp_path: Path, logged: list[str]) -> None:
    before, callback, start = Spy(), SFACallback(beta=0.25, p=1), weights(tiny())
    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_loss"}
    training = trainer(
        tmp_path, before, callback, Losses(), EarlyStoppingCallback(2), greater_is_better=False, **settings
    )
    training.train()
    assert training.state.global_step == 3 < TOTAL
    assert (callback.sfa.steps, callback.sfa.averages) == (3, 1)
    assert torch.equal(weights(training.model), before.seen[-1].lerp(start, 0.25))
    assert any("stopped early, at step 3" in message for message in logged)


def test_the_best_model_that_is_loaded_is_a_checkpoint_of_averaged_weights(tmp_path: Path) -> None:
    before, start = Spy(), weights(tiny())
    settings: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
    training = trainer(tmp_path, before, SFACallback(beta=0.25, p=0.25), Losses(), **settings, **best)
    training.train()
    assert training.state.best_global_step == 2
    assert torch.equal(weights(training.model), before.seen[1].lerp(start, 0.25))
