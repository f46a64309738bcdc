"""SFA in Lightning: the same weights as the loop written by hand, resumed or not."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stockpot import StockpotError
from stockpot.weights.checkpoint import save_checkpoint

if importlib.util.find_spec("lightning") is None:
    pytest.skip("Lightning is not installed", allow_module_level=True)

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.strategies import FSDPStrategy

from stockpot.averaging.lightning import SFALightning

BATCHES, ACCUMULATE, EPOCHS = 7, 2, 3  # the last batch of an epoch is a step of its own
TOTAL = -(-BATCHES // ACCUMULATE) * EPOCHS


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def loss(self, x: Tensor) -> Tensor:
        return (self.layers(x)[:, 0] - x.sum(1).sin()).pow(2).mean()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Batches:
    """Batches in a fixed order that go on where they were: Lightning resumes within an epoch only with such."""

    def __init__(self) -> None:
        x = torch.randn(BATCHES * 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        self.batches, self.next = x.split(3), 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(self.next % BATCHES, BATCHES):
            self.next = index + 1
            yield self.batches[index]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def weights(module: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in module.parameters()])


def fit(
    folder: Path,
    *callbacks: Callback,
    module: LightningModule | None = None,
    resume: Path | None = None,
    **settings: Any,
) -> Tensor:
    module = module or Regression()
    arguments = {"max_epochs": EPOCHS, "accumulate_grad_batches": ACCUMULATE, "accelerator": "cpu", **settings}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = Trainer(
        default_root_dir=folder, callbacks=list(callbacks), enable_checkpointing=saves, **quiet, **arguments
    )
    trainer.fit(module, Batches(), ckpt_path=resume)
    return weights(module)


class Spy(Callback):
    """Writes down step and weights at the end of each batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.seen.append((trainer.global_step, weights(pl_module).clone()))


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


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
    held = torch.cat([tensor.flatten() for tensor in saved["state_dict"].values()])
    start = weights(Regression())
    torch.testing.assert_close(held, 0.75 * tuned + 0.25 * start, rtol=1e-14, atol=1e-14)
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


def test_a_training_that_stops_early_is_averaged_at_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spy, callback = Spy(), SFALightning(beta=0.25, p=1)
    with caplog.at_level(logging.WARNING, logger="stockpot"):
        result = fit(tmp_path, callback, spy, StopAt(5))
    assert (callback.sfa.averages, callback.sfa.steps) == (1, 5)
    expected = 0.75 * spy.seen[-1][1] + 0.25 * weights(Regression())
    torch.testing.assert_close(result, expected, rtol=1e-14, atol=1e-14)
    assert "stopped early, at step 5" in caplog.text


class Validated(Regression):
    """Its validations give these losses, whatever the weights."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses, self.steps = losses, list[int]()

    def val_dataloader(self) -> Any:
        return [torch.zeros(1, 4).double()]

    def validation_step(self, batch: Tensor, index: int) -> None:
        if not self.trainer.sanity_checking:
            self.steps.append(self.trainer.global_step)
            self.log("val_loss", self.losses[len(self.steps) - 1])


def best_of(folder: Path, **settings: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, monitor="val_loss", filename="{step}", **settings)


def test_the_best_of_monitored_checkpoints_holds_averaged_weights(tmp_path: Path) -> None:
    saver, spy = best_of(tmp_path), Spy()
    module = Validated([1.0, 0.5, 2.0])
    fit(tmp_path, spy, SFALightning(beta=0.25, every=4), saver, module=module)
    assert module.steps == [4, 8, 12]
    saved = torch.load(saver.best_model_path, weights_only=True)
    assert saved["global_step"] == 8
    tuned = next(seen for step, seen in spy.seen if step == 8)
    weights_saved = torch.cat([tensor.flatten() for tensor in saved["state_dict"].values()])
    torch.testing.assert_close(weights_saved, 0.75 * tuned + 0.25 * weights(Regression()), rtol=1e-14, atol=1e-14)


def test_a_best_between_two_averages_is_refused_before_the_first_step(tmp_path: Path) -> None:
    for settings, trainer, step in (
        ({"every": 5}, {}, 4),
        ({"p": 1}, {}, 4),
        ({"p": 0.25}, {"val_check_interval": 2}, 1),
        ({"every": 4}, {"check_val_every_n_epoch": 2, "max_steps": 11}, 8),
    ):
        module = Validated([1.0] * 9)
        saver = best_of(tmp_path, save_top_k=-1)
        if step == 8:  # due: an epoch is four steps
            fit(tmp_path, SFALightning(beta=0.25, **settings), saver, module=module, **trainer)
            assert module.steps == [8]
            continue
        with pytest.raises(StockpotError, match=rf"would compare step {step}, which lies between two averages") as told:
            fit(tmp_path, SFALightning(beta=0.25, **settings), saver, module=module, **trainer)
        assert "\n" not in str(told.value)
        assert module.steps == []
    latest = ModelCheckpoint(tmp_path, monitor="step", mode="max", save_top_k=1)
    fit(tmp_path, SFALightning(beta=0.25, p=1), latest, module=Validated([1.0] * 9))  # no score is compared


def test_a_comparison_that_nobody_foresaw_is_stopped(tmp_path: Path) -> None:
    module = Validated([1.0] * 9)
    with pytest.raises(StockpotError, match="would compare step 3, which lies between two averages"):
        fit(tmp_path, SFALightning(beta=0.25, every=2), best_of(tmp_path), module=module,
            check_val_every_n_epoch=None, val_check_interval=6)  # fmt: skip
    assert not list(tmp_path.glob("*.ckpt"))
    of_training = ModelCheckpoint(tmp_path, monitor="train_loss")
    with pytest.raises(StockpotError, match=r"'train_loss'.* would compare step 4"):
        fit(tmp_path, SFALightning(beta=0.25, every=3), of_training)


def test_of_an_anchor_by_path_the_content_is_checked(stopped: Callable[..., Path], tmp_path: Path) -> None:
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


def test_a_checkpoint_resumes_wherever_it_lies_and_longer_with_every(
    stopped: Callable[..., Path], tmp_path: Path
) -> None:
    expected = fit(tmp_path / "longer", SFALightning(beta=0.25, every=5), max_epochs=4)
    checkpoint = stopped(5, SFALightning(beta=0.25, every=5, keep="disk"))
    (tmp_path / "moved").mkdir()
    moved = checkpoint.rename(tmp_path / "moved" / "any.ckpt")
    callback = SFALightning(beta=0.25, every=5)
    assert torch.equal(fit(tmp_path / "new", callback, resume=moved, max_epochs=4), expected)


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


def test_what_it_cannot_average_rightly_is_refused_by_name(tmp_path: Path) -> None:
    class Manual(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    class Two(Manual):
        def configure_optimizers(self) -> Any:
            return [super(Two, self).configure_optimizers() for _ in range(2)]

    for module in (Manual(), Two()):
        with pytest.raises(StockpotError, match="needs automatic optimization with one optimizer"):
            fit(tmp_path, SFALightning(beta=0.25, p=1), module=module, accumulate_grad_batches=1)

    class Stand:
        strategy = FSDPStrategy.__new__(FSDPStrategy)

    with pytest.raises(StockpotError, match="not under FSDPStrategy"):
        SFALightning(beta=0.25, p=1).on_train_start(Stand(), Regression())  # type: ignore[arg-type]


class PutsBack(torch.optim.SGD):
    """Writes its masters over the weights at each step."""

    def step(self, closure: Any = None) -> Any:
        params = [p for group in self.param_groups for p in group["params"]]
        self.masters = getattr(self, "masters", None) or [p.detach().clone() for p in params]
        loss = super().step(closure)
        with torch.no_grad():
            for p, master in zip(params, self.masters, strict=True):
                p.copy_(master)
        return loss


def test_an_average_that_the_next_step_undoes_is_noticed_here_too(tmp_path: Path) -> None:
    class Masters(Regression):
        def configure_optimizers(self) -> Any:
            return PutsBack(self.parameters(), lr=0.0)

    module = Masters()
    anchor = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    with pytest.raises(StockpotError, match="restored the weights from before it"):
        fit(tmp_path, SFALightning(beta=0.25, every=2, anchor=anchor), module=module)

    class Elsewhere(Regression):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(Regression().parameters(), lr=0.1)

    with pytest.raises(StockpotError, match="SGD holds none of the model's own tensors"):
        fit(tmp_path, SFALightning(beta=0.25, every=2), module=Elsewhere())


@pytest.mark.parametrize("callback", [StochasticWeightAveraging(swa_lrs=0.01), EMAWeightAveraging()])
def test_callbacks_that_replace_the_weights_at_the_end_are_refused(callback: Callback, tmp_path: Path) -> None:
    for callbacks in ((callback, SFALightning(beta=0.25, p=1)), (SFALightning(beta=0.25, p=1), callback)):
        with pytest.raises(StockpotError, match=f"^{type(callback).__name__} puts its own mean of the weights"):
            fit(tmp_path, *callbacks)


def test_p_of_an_unknown_length_is_refused_and_every_is_averaged_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match="p needs total_steps"):
        fit(tmp_path, SFALightning(beta=0.25, p=0.5), StopAt(5), max_epochs=-1)
    callback = SFALightning(beta=0.25, every=2)
    fit(tmp_path, callback, StopAt(5), max_epochs=-1)
    assert (callback.sfa.steps, callback.sfa.averages) == (5, 3)


def test_mistakes_are_told_when_the_callback_is_made() -> None:
    for settings, words in (({}, "either p .* or every"), ({"p": 0.1, "beta": 1.5}, r"beta must lie in \[0, 1\]")):
        with pytest.raises(StockpotError, match=words):
            SFALightning(**{"beta": 0.25, **settings})


def test_without_lightning_one_line_names_the_extra() -> None:
    code = (
        "import sys, stockpot; stockpot.SFA; print('lightning' in sys.modules); sys.modules['lightning'] = None\n"
        "try:\n    import stockpot.averaging.lightning\nexcept stockpot.StockpotError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\nSFALightning needs Lightning: pip install 'stockpot[lightning]'.\n"
