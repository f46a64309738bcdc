"""`beta="auto"` in Lightning: the clipped gradients, exact resume, and steps that a gradient scaler skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_training import TOTAL, Regression, StopAt, fit, weights
from torch import Tensor, nn

from stockpot.averaging.auto_beta import DAMPING
from stockpot.averaging.lightning import SFALightning


class Gradients(Callback):
    """What the optimizer got at each step, and the weights that it left; comes before SFA's turn."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.left: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        if len(self.seen) < trainer.global_step:
            self.seen.append(torch.cat([tensor.grad.flatten() for tensor in pl_module.parameters()]))
            self.left.append(weights(pl_module))


def test_it_weighs_with_the_clipped_mean_over_micro_batches(tmp_path: Path) -> None:
    start, spy = weights(Regression()), Gradients()
    callback = SFALightning(beta="auto", p=1)
    after = fit(tmp_path, spy, callback, gradient_clip_val=0.1)
    assert len(spy.seen) == TOTAL
    assert all(float(gradient.norm()) <= 0.1 + 1e-9 for gradient in spy.seen)
    v = torch.stack(spy.seen).square().mean(0)
    e = DAMPING * v.mean()
    kept = (v + e) / (v + e + v.mean() + e)
    torch.testing.assert_close(after, start + kept * (spy.left[-1] - start))
    assert callback.sfa.importance().tasks == 2


def test_strength_0_is_plain_fine_tuning_bitwise(tmp_path: Path) -> None:
    plain = fit(tmp_path)
    assert torch.equal(fit(tmp_path, SFALightning(beta="auto", strength=0.0)), plain)
    assert torch.equal(fit(tmp_path, SFALightning(beta="auto", importance="none")), plain)


@pytest.mark.parametrize("stop", [2, 5, 6])
def test_resumed_equals_unbroken(stop: int, tmp_path: Path) -> None:
    unbroken = SFALightning(beta="auto")
    expected = fit(tmp_path, unbroken)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=stop, save_top_k=-1, filename="{step}")
    fit(tmp_path, saver, SFALightning(beta="auto"), StopAt(stop))
    callback, other = SFALightning(beta="auto"), Regression()
    nn.utils.vector_to_parameters(weights(other) + 3.0, other.parameters())
    assert torch.equal(fit(tmp_path, callback, module=other, resume=tmp_path / f"step={stop}.ckpt"), expected)
    one, two = (each.sfa.importance().tensors for each in (unbroken, callback))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


class Overflowing(Callback):
    """Makes a gradient infinite before some optimizer steps, and skips those as a gradient scaler does."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.precision_plugin.scaler = object()  # what marks fp16; the skipping is done here
        optimizer = trainer.optimizers[0]
        step = optimizer.step

        def skipping(closure: Any = None, **kwargs: Any) -> Any:
            if trainer.global_step + 1 not in self.steps:
                return step(closure, **kwargs)
            loss = closure()
            next(pl_module.parameters()).grad.fill_(float("inf"))
            return loss

        optimizer.step = skipping


def test_steps_that_a_gradient_scaler_skipped_are_not_observed(tmp_path: Path) -> None:
    spy, callback = Gradients(), SFALightning(beta="auto", p=1)
    fit(tmp_path, Overflowing(3, 4), spy, callback)
    kept = [gradient for gradient in spy.seen if bool(gradient.isfinite().all())]
    assert len(kept) == callback.sfa.observed()["observed"] < TOTAL
    v = torch.stack(kept).square().mean(0)
    tensors = callback.sfa.importance().tensors
    flat = torch.cat([tensors[name].flatten() for name, _ in Regression().named_parameters()])
    torch.testing.assert_close(flat, v + v.mean())
