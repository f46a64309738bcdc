"""SFA in Lightning: the same weights as the loop written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning_training import ACCUMULATE, BATCHES, EPOCHS, TOTAL, Batches, Regression, Spy, StopAt, fit, weights
from torch import nn

from stockpot import StockpotError
from stockpot.averaging.lightning import SFALightning


@pytest.mark.parametrize("settings", [{"p": 0.25}, {"every": 5}], ids=["p", "every"])
def test_lightning_equals_the_loop_written_by_hand(settings: dict[str, Any], tmp_path: Path) -> None:
    callback = SFALightning(beta=0.25, **settings)
    result = fit(tmp_path, callback)

    module = Regression()
    start = weights(module).clone()
    due = {3, 6, 9, 12} if "p" in settings else {5, 10, 12}
    optimizer, step = torch.optim.AdamW(module.parameters(), lr=0.01), 0
    for _ in range(EPOCHS):
        for index, batch in enumerate(Batches()):
            (module.loss(batch) / ACCUMULATE).backward()
            if index % ACCUMULATE == ACCUMULATE - 1 or index == BATCHES - 1:
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                if step in due:
                    averaged = 0.75 * weights(module) + 0.25 * start
                    nn.utils.vector_to_parameters(averaged, module.parameters())
    assert step == TOTAL == callback.sfa.steps
    assert callback.sfa.averages == len(due)
    torch.testing.assert_close(result, weights(module), rtol=1e-12, atol=1e-12)


def test_it_averages_after_optimizer_steps_only_and_by_the_formula(tmp_path: Path) -> None:
    before, after = Spy(), Spy()
    start = weights(Regression())
    fit(tmp_path, before, SFALightning(beta=0.25, p=0.25), after)
    assert len(before.seen) == BATCHES * EPOCHS  # batches; what counts below is the first one at each step
    last = 0
    for (step, tuned), (_, averaged) in zip(before.seen, after.seen, strict=True):
        due = step != last and step % 3 == 0
        expected = 0.75 * tuned + 0.25 * start if due else tuned
        torch.testing.assert_close(averaged, expected, rtol=1e-14, atol=1e-14)
        assert torch.equal(averaged, tuned) is not due
        last = step


def test_beta_0_is_bitwise_plain_lightning(tmp_path: Path) -> None:
    assert torch.equal(fit(tmp_path), fit(tmp_path, SFALightning(beta=0.0, p=0.25)))


def test_a_training_that_stops_early_is_averaged_at_its_end(tmp_path: Path, logged: list[str]) -> None:
    spy, callback = Spy(), SFALightning(beta=0.25, p=1)
    result = fit(tmp_path, callback, spy, StopAt(5))
    assert (callback.sfa.averages, callback.sfa.steps) == (1, 5)
    expected = 0.75 * spy.seen[-1][1] + 0.25 * weights(Regression())
    torch.testing.assert_close(result, expected, rtol=1e-14, atol=1e-14)
    assert any("stopped early, at step 5" in message for message in logged)


def test_each_fit_of_a_new_trainer_takes_an_anchor_of_its_own(tmp_path: Path) -> None:
    module, callback = Regression(), SFALightning(beta=1.0, p=1)
    assert torch.equal(fit(tmp_path, callback, module=module), weights(Regression()))
    nn.utils.vector_to_parameters(weights(module) + 1.0, module.parameters())
    second = weights(module).clone()
    assert torch.equal(fit(tmp_path, callback, module=module), second)


def test_frozen_parameters_stay_and_the_fp32_weights_under_bf16_autocast_are_averaged(tmp_path: Path) -> None:
    module = Regression().float()
    module.layers[0].weight.requires_grad_(False)
    start, spy = weights(module).clone(), Spy()

    class Floats(Callback):
        def on_before_zero_grad(self, *args: Any) -> None:
            assert all(tensor.dtype == torch.float32 for tensor in module.parameters())

    module.loss = lambda x: (module.layers(x.float())[:, 0] - x.sum(1).sin()).pow(2).mean()  # type: ignore[method-assign]
    result = fit(tmp_path, Floats(), spy, SFALightning(beta=0.25, p=1), module=module, precision="bf16-mixed")
    assert torch.equal(result, spy.seen[-1][1].lerp(start, 0.25))
    assert torch.equal(result[:32], start[:32])


def test_the_twin_package_works_too(tmp_path: Path) -> None:
    twin = pytest.importorskip("pytorch_lightning")

    class Twin(twin.LightningModule):  # type: ignore[misc, name-defined]
        loss, training_step = Regression.loss, Regression.training_step
        configure_optimizers = Regression.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.layers = Regression().layers

    trainer = twin.Trainer(
        default_root_dir=tmp_path, max_epochs=EPOCHS, accumulate_grad_batches=ACCUMULATE, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[SFALightning(beta=0.25, p=0.25)],
    )  # fmt: skip
    module = Twin()
    trainer.fit(module, Batches())
    assert torch.equal(weights(module), fit(tmp_path, SFALightning(beta=0.25, p=0.25)))


def test_p_of_an_unknown_length_is_refused_and_every_is_averaged_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match="p needs total_steps"):
        fit(tmp_path, SFALightning(beta=0.25, p=0.5), StopAt(5), max_epochs=-1)
    callback = SFALightning(beta=0.25, every=2)
    fit(tmp_path, callback, StopAt(5), max_epochs=-1)
    assert (callback.sfa.steps, callback.sfa.averages) == (5, 3)


def test_loggers_get_the_distance_to_the_anchor_and_the_averages(tmp_path: Path) -> None:
    """At step 3k of Lightning's own count, where every third step is averaged: the distance is that of the weights."""
    spy = Spy()
    logged: dict[int, dict[str, float]] = {}

    class Kept(Logger):
        name = version = "kept"

        def log_hyperparams(self, *arguments: Any, **values: Any) -> None: ...

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            assert step is not None
            logged.setdefault(step, {}).update(metrics)

    start = weights(Regression())
    fit(tmp_path, SFALightning(beta=0.25, p=0.25), spy, logger=Kept(), log_every_n_steps=4)
    by_step = dict(spy.seen)
    assert {step + 1 for step in logged} == {4, 8, 12}
    for step, numbers in logged.items():
        expected = {"sfa/distance": float((by_step[step + 1] - start).norm()), "sfa/averages": (step + 1) // 3}
        assert {name: numbers[name] for name in expected} == pytest.approx(expected, rel=1e-12)
