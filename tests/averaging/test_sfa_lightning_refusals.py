"""What SFALightning refuses: a best checkpoint between two averages, and trainings that it cannot average correctly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.strategies import FSDPStrategy
from lightning_training import Regression, Spy, fit, weights
from torch import Tensor

from stockpot import StockpotError
from stockpot.averaging.lightning import SFALightning


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
        with pytest.raises(
            StockpotError, match=rf"would compare step {step}, which lies between two averages"
        ) as caught:
            fit(tmp_path, SFALightning(beta=0.25, **settings), saver, module=module, **trainer)
        assert "\n" not in str(caught.value)
        assert module.steps == []
    latest = ModelCheckpoint(tmp_path, monitor="step", mode="max", save_top_k=1)
    fit(tmp_path, SFALightning(beta=0.25, p=1), latest, module=Validated([1.0] * 9))  # no score is compared


def test_an_unforeseen_comparison_is_stopped(tmp_path: Path) -> None:
    module = Validated([1.0] * 9)
    with pytest.raises(StockpotError, match="would compare step 3, which lies between two averages"):
        fit(tmp_path, SFALightning(beta=0.25, every=2), best_of(tmp_path), module=module,
            check_val_every_n_epoch=None, val_check_interval=6)  # fmt: skip
    assert not list(tmp_path.glob("*.ckpt"))
    of_training = ModelCheckpoint(tmp_path, monitor="train_loss")
    with pytest.raises(StockpotError, match=r"'train_loss'.* would compare step 4"):
        fit(tmp_path, SFALightning(beta=0.25, every=3), of_training)


def test_what_it_cannot_average_correctly_is_refused_by_name(tmp_path: Path) -> None:
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


def test_an_average_that_the_next_step_undoes_is_detected_here_too(tmp_path: Path) -> None:
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
