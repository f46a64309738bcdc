"""SFA in Lightning, resumed from a checkpoint: the same weights as an unbroken training, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_training import TOTAL, Regression, Spy, StopAt, fit, weights
from torch import Tensor, nn

from stockpot import StockpotError
from stockpot.averaging.lightning import SFALightning
from stockpot.weights.checkpoint import save_checkpoint


@pytest.fixture
def stopped(tmp_path: Path) -> Callable[..., Path]:
    """`stopped(5, SFALightning(…))` → the checkpoint of a training that stopped at step 5."""

    def run(step: int, *callbacks: Callback) -> Path:
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
        fit(tmp_path, saver, *callbacks, StopAt(step))  # ModelCheckpoint is called last all the same
        return tmp_path / f"step={step}.ckpt"

    return run


@pytest.mark.parametrize("stop", [2, 5, 6])
@pytest.mark.parametrize(
    "settings", [{"p": 0.25}, {"every": 2, "keep": "disk"}, {"p": 0.5, "anchor": "file"}], ids=["p", "disk", "path"]
)
def test_resumed_equals_unbroken(
    settings: dict[str, Any], stop: int, stopped: Callable[..., Path], tmp_path: Path
) -> None:
    settings = {"beta": 0.25, **settings}
    if "anchor" in settings:
        settings["anchor"] = tmp_path / "anchor.safetensors"
        save_checkpoint(Regression().state_dict(), settings["anchor"])
    unbroken = SFALightning(**settings)
    expected = fit(tmp_path, unbroken)
    checkpoint = stopped(stop, SFALightning(**settings))
    callback = SFALightning(**settings)
    other = Regression()  # what a resuming script has before it loads: not the start of the task
    nn.utils.vector_to_parameters(weights(other) + 3.0, other.parameters())
    assert torch.equal(fit(tmp_path, callback, module=other, resume=checkpoint), expected)
    assert (callback.sfa.steps, callback.sfa.averages) == (TOTAL, unbroken.sfa.averages)


def test_checkpoints_hold_averaged_weights_and_the_anchor(stopped: Callable[..., Path]) -> None:
    spy = Spy()
    file = stopped(6, spy, SFALightning(beta=0.25, p=0.5))
    saved = torch.load(file, weights_only=True)
    tuned = next(seen for step, seen in spy.seen if step == 6)
    saved_weights = torch.cat([tensor.flatten() for tensor in saved["state_dict"].values()])
    start = weights(Regression())
    torch.testing.assert_close(saved_weights, 0.75 * tuned + 0.25 * start, rtol=1e-14, atol=1e-14)
    anchor = saved["callbacks"]["SFALightning"]["anchor"]
    assert torch.equal(torch.cat([tensor.flatten() for tensor in anchor.values()]), start)


def test_an_average_that_a_checkpoint_missed_is_made_on_resume(tmp_path: Path) -> None:
    class SaveBetween(Callback):
        """Saves between the optimizer step and SFA's turn, as a checkpoint on an exception may."""

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "between.ckpt")

    expected = fit(tmp_path, SaveBetween(), SFALightning(beta=0.25, p=0.25), accumulate_grad_batches=1)
    resumed = fit(
        tmp_path, SFALightning(beta=0.25, p=0.25), resume=tmp_path / "between.ckpt", accumulate_grad_batches=1
    )
    assert torch.equal(resumed, expected)


def test_lora_factors_are_scaled_and_resumed_without_an_anchor(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def adapted() -> Regression:
        module = Regression()
        module.layers = peft.get_peft_model(module.layers, peft.LoraConfig(r=2, target_modules=["0", "2"])).double()
        return module

    def factors(module: nn.Module, kind: str) -> Tensor:
        return torch.cat([tensor.detach().flatten() for name, tensor in module.named_parameters() if kind in name])

    seen: list[dict[str, Tensor]] = []

    class Factors(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            seen.append({kind: factors(pl_module, kind).clone() for kind in ("lora_A", "lora_B")})

    callback = SFALightning(beta=0.25, p=1)
    module = adapted()
    expected = fit(tmp_path, Factors(), callback, module=module)
    assert not callback.sfa.anchor
    assert torch.equal(factors(module, "lora_A"), seen[-1]["lora_A"])
    torch.testing.assert_close(factors(module, "lora_B"), 0.75 * seen[-1]["lora_B"], rtol=1e-14, atol=0)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1, filename="lora")
    fit(tmp_path, saver, SFALightning(beta=0.25, p=1), StopAt(5), module=adapted())
    resumed = fit(tmp_path, SFALightning(beta=0.25, p=1), module=adapted(), resume=tmp_path / "lora.ckpt")
    assert torch.equal(resumed, expected)


def test_mid_task_weights_never_become_the_anchor(stopped: Callable[..., Path], tmp_path: Path) -> None:
    plain = stopped(5)
    with pytest.raises(StockpotError, match=r"starts at step 5 without a state .* pass it, anchor=PATH"):
        fit(tmp_path, SFALightning(beta=0.25, p=0.25), resume=plain)
    save_checkpoint(Regression().state_dict(), tmp_path / "anchor.safetensors")
    callback = SFALightning(beta=0.25, p=0.25, anchor=tmp_path / "anchor.safetensors")
    fit(tmp_path, callback, resume=plain)
    assert (callback.sfa.steps, callback.sfa.averages) == (TOTAL, 3)  # after 6, 9 and 12


def test_resume_with_other_settings_is_refused(stopped: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = stopped(5, SFALightning(beta=0.25, p=0.25))
    for changed, words in (
        ({"beta": 0.5}, "beta is 0.5 here and 0.25 in"),
        ({"p": 0.5}, "p is 0.5 here and 0.25 in"),
        ({"buffers": "keep"}, "buffers is 'keep' here and 'average' in"),
    ):
        with pytest.raises(StockpotError, match=words):
            fit(tmp_path, SFALightning(**{"beta": 0.25, "p": 0.25, **changed}), resume=checkpoint)
    with pytest.raises(StockpotError, match="total_steps is 16 here and 12 in"):
        fit(tmp_path, SFALightning(beta=0.25, p=0.25), resume=checkpoint, max_epochs=4)


def test_the_content_of_an_anchor_by_path_is_checked(stopped: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "anchor.safetensors"
    save_checkpoint(Regression().state_dict(), file)
    settings: dict[str, Any] = {"beta": 0.25, "p": 0.25}
    expected = fit(tmp_path, SFALightning(**settings))
    checkpoint = stopped(5, SFALightning(**settings, anchor=file))
    there = file.rename(tmp_path / "there.safetensors")
    assert torch.equal(fit(tmp_path, SFALightning(**settings, anchor=there), resume=checkpoint), expected)
    save_checkpoint({name: tensor + 1 for name, tensor in Regression().state_dict().items()}, there)
    with pytest.raises(StockpotError, match=r"there.safetensors differs, in what is trained here, from the anchor"):
        fit(tmp_path, SFALightning(**settings, anchor=there), resume=checkpoint)


def test_a_checkpoint_resumes_wherever_it_is_and_longer_with_every(
    stopped: Callable[..., Path], tmp_path: Path
) -> None:
    expected = fit(tmp_path / "longer", SFALightning(beta=0.25, every=5), max_epochs=4)
    checkpoint = stopped(5, SFALightning(beta=0.25, every=5, keep="disk"))
    (tmp_path / "moved").mkdir()
    moved = checkpoint.rename(tmp_path / "moved" / "any.ckpt")
    callback = SFALightning(beta=0.25, every=5)
    assert torch.equal(fit(tmp_path / "new", callback, resume=moved, max_epochs=4), expected)
