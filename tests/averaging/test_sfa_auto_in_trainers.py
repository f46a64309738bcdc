"""`beta="auto"` in the Trainer: the gradients that the optimizer got, exact resume, Ω between tasks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_training import TOTAL, Regression, train, trainer, weights
from torch import Tensor
from transformers import TrainerCallback

from stockpot import SFACallback, StockpotError
from stockpot.averaging.auto_beta import DAMPING
from stockpot.averaging.past_importance import PastImportance, past_importance


class Gradients(TrainerCallback):
    """What the optimizer got at each step, and the weights that it left."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.left: list[Tensor] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(torch.cat([tensor.grad.flatten() for tensor in model.parameters()]).double())
        self.left.append(weights(model).double())


def uniform_by_hand(start: Tensor, spy: Gradients, step: int, strength: float = 1.0) -> Tensor:
    v = torch.stack(spy.seen[:step]).square().mean(0)
    e = DAMPING * v.mean()
    kept = (v + e) / (v + e + strength * (v.mean() + e))
    return start + kept * (spy.left[step - 1] - start)


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_it_weighs_with_the_clipped_mean_over_micro_batches(strength: float, tmp_path: Path) -> None:
    start, spy = weights(Regression()).double(), Gradients()
    callback = SFACallback(beta="auto", p=1, strength=strength)
    after = train(tmp_path, spy, callback, save_strategy="no", max_grad_norm=0.1)
    assert all(0.05 < float(gradient.norm()) <= 0.1 + 1e-6 for gradient in spy.seen)  # clipped
    torch.testing.assert_close(after.double(), uniform_by_hand(start, spy, TOTAL, strength), rtol=1e-4, atol=1e-6)
    assert callback.sfa.averages == 1
    saved = past_importance(tmp_path / "sfa-importance")
    assert saved.tasks == 2
    v = torch.stack(spy.seen).square().mean(0)
    flat = torch.cat([tensor.flatten() for tensor in saved.tensors.values()]).double()
    order = torch.cat([saved.tensors[name].flatten() for name, _ in Regression().named_parameters()]).double()
    assert len(flat) == len(order)
    torch.testing.assert_close(order, v + v.mean(), rtol=1e-4, atol=1e-7)


def test_strength_0_is_plain_fine_tuning_bitwise(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", save_strategy="no")
    auto = train(tmp_path / "auto", SFACallback(beta="auto", strength=0.0), save_strategy="no")
    first = train(tmp_path / "first", SFACallback(beta="auto", importance="none"), save_strategy="no")
    assert torch.equal(auto, plain)
    assert torch.equal(first, plain)
    assert past_importance(tmp_path / "first" / "sfa-importance").tasks == 1


@pytest.mark.parametrize("importance", ["uniform", "none", "saved"])
def test_a_resumed_training_is_the_unbroken_one_bit_for_bit(importance: str, tmp_path: Path) -> None:
    if importance == "saved":
        past = {name: torch.rand_like(tensor) for name, tensor in Regression().named_parameters()}
        PastImportance(past, 3).save(tmp_path / "past")
        importance = str(tmp_path / "past")

    def callback() -> SFACallback:
        return SFACallback(beta="auto", importance=importance)

    whole = train(tmp_path / "whole", callback())
    shutil.copytree(tmp_path / "whole" / "checkpoint-5", tmp_path / "moved" / "checkpoint-5")
    resumed = trainer(tmp_path / "moved", callback())
    resumed.train(resume_from_checkpoint=str(tmp_path / "moved" / "checkpoint-5"))
    assert torch.equal(weights(resumed.model), whole)
    one, other = (past_importance(tmp_path / name / "sfa-importance") for name in ("whole", "moved"))
    assert one.tasks == other.tasks
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_a_checkpoint_without_the_squares_and_other_settings_are_refused(tmp_path: Path) -> None:
    train(tmp_path, SFACallback(beta="auto"))
    checkpoint = tmp_path / "checkpoint-5"
    for settings, name in (
        ({"strength": 2.0}, "strength"),
        ({"importance": "none"}, "importance"),
        ({"squares": "adam"}, "squares"),
    ):
        with pytest.raises(StockpotError, match=f"^{name} is"):
            trainer(tmp_path, SFACallback(beta="auto", **settings)).train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "sfa_squared_gradients.safetensors").unlink()
    with pytest.raises(StockpotError, match="no squared gradients"):
        trainer(tmp_path, SFACallback(beta="auto")).train(resume_from_checkpoint=str(checkpoint))


def test_adams_moments_need_no_file(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", SFACallback(beta="auto", squares="adam"))
    assert not list((tmp_path / "whole").rglob("sfa_squared_gradients.safetensors"))
    assert not torch.equal(whole, train(tmp_path / "plain", save_strategy="no"))
    resumed = trainer(tmp_path / "whole", SFACallback(beta="auto", squares="adam"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert torch.equal(weights(resumed.model), whole)


def test_the_next_task_is_weighed_with_the_importance_of_the_first(tmp_path: Path) -> None:
    train(tmp_path / "one", SFACallback(beta="auto", importance="none"), save_strategy="no")
    saved = tmp_path / "one" / "sfa-importance"
    model, spy = Regression(), Gradients()
    start = weights(model).double()
    callback = SFACallback(beta="auto", p=1, importance=saved)
    after = train(tmp_path / "two", spy, callback, model=model, save_strategy="no", learning_rate=0.02)
    past = past_importance(saved).tensors
    omega = torch.cat([past[name].flatten() for name, _ in model.named_parameters()]).double()
    v = torch.stack(spy.seen).square().mean(0)
    e = DAMPING / 2 * (v.mean() + omega.mean())
    kept = (v + e) / (v + e + omega + e)
    torch.testing.assert_close(after.double(), start + kept * (spy.left[-1] - start), rtol=1e-4, atol=1e-6)
    assert past_importance(tmp_path / "two" / "sfa-importance").tasks == 2
