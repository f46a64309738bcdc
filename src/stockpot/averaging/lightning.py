"""SFA in Lightning's Trainer; for the extra `lightning`."""

from __future__ import annotations

import logging
import math
from typing import Any, Unpack

from stockpot.averaging.lightning_best_checkpoint import check_compared, refuse_monitor_between
from stockpot.averaging.notes import note_stopped_early
from stockpot.averaging.refusals import setting_differs
from stockpot.averaging.settings import SFAOptions, SFASettings, lists_settings
from stockpot.averaging.sfa import SFA
from stockpot.errors import StockpotError

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise StockpotError("SFALightning needs Lightning: pip install 'stockpot[lightning]'.") from error

_logger = logging.getLogger("stockpot")
_REPLACING = ("StochasticWeightAveraging", "WeightAveraging")  # callbacks that put a mean of their own in the weights
_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")  # by name: `pytorch_lightning` has classes of its own


class SFALightning(Callback):
    """Averages the module with its anchor while Lightning trains it: θ ← (1−β)·θ + β·θ_o (arXiv 2501.05559).

    ```python
    Trainer(..., callbacks=[SFALightning(beta=0.25, p=0.1)])
    ```

    T is `trainer.estimated_stepping_batches`, and each `fit` of a new Trainer is a task of its own, whose anchor by
    default is the module as that task starts. The average comes at the end of the batch whose optimizer step was due,
    before validation and before `ModelCheckpoint` saves. Steps are counted as Lightning counts them: batches that only
    accumulate gradients do not count, a step that a gradient scaler skipped does.

    Resuming: a checkpoint holds SFA's counts and the anchor, as many bytes as the weights, or its path alone if it is
    one. `fit(ckpt_path=…)` continues with that anchor, never with mid-task weights, and equals an unbroken training. An
    anchor given by path is compared with the one that the training started with. With `every`, the length of the
    training may change. A training that stops early is averaged at its end, which no checkpoint saved before holds;
    that is logged. If `ModelCheckpoint` monitors a score, an average has to be due at every validation: otherwise its
    best could be plain fine-tuning.

    Every `log_every_n_steps` the Trainer's loggers get `sfa/distance`, ‖θ − θ_o‖₂, which takes a pass over the weights,
    and `sfa/averages`, the averages so far.

    Args:
        beta: as in `SFA`; so are p, every, anchor, keep, new, rounding, buffers, reset_optimizer, seed, strength,
            importance and squares. All are keyword only. With `beta="auto"` gradients are observed as the optimizer
            got them, after clipping; after `fit`, `callback.sfa.save_importance(folder)` keeps their squares for the
            next task.

    Attributes:
        sfa: the running `SFA`, with its counts and seconds; set when training starts.

    Raises:
        StockpotError: as `SFA` does; for manual optimization, several optimizers, and strategies other than one device
            and DDP; if the best checkpoint could lie between two averages; on resume if settings or the anchor differ,
            or the checkpoint has no state of this callback.
    """

    sfa: SFA

    @lists_settings
    def __init__(self, **settings: Unpack[SFAOptions]) -> None:
        self._settings = SFASettings(**settings)
        self._resumed: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what an earlier `test(ckpt_path=…)` may have loaded."""
        self._resumed = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the anchor at a fresh start, and the saved one on resume."""
        _refuse(trainer, pl_module)
        saved = self._saved(trainer)
        steps = trainer.estimated_stepping_batches
        self.sfa = SFA(
            pl_module,
            total_steps=int(steps) if 0 < steps < math.inf else None,
            optimizer=trainer.optimizers[0],
            **self._settings.options(),
        )
        if saved:
            self.sfa.load_state_dict(saved)
        else:
            self.sfa.check_start()
            self.sfa.steps = trainer.global_step
            self.sfa.last_average = self.sfa.steps if self.sfa.schedule.due(self.sfa.steps) else 0
        self._catch_up(trainer, gradients=False)
        refuse_monitor_between(trainer, self.sfa)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to compare weights that lie between two averages; ModelCheckpoint's turn comes after this."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            check_compared(trainer, self.sfa)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where ModelCheckpoint monitors a score of training."""
        if not trainer.enable_validation:
            check_compared(trainer, self.sfa)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Averages if one is due after the optimizer step of this batch, and logs where the weights are."""
        before = self.sfa.steps
        self._catch_up(trainer)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.sfa.steps > before and every and self.sfa.steps % every == 0:
            numbers = {"sfa/distance": self.sfa.distance(), "sfa/averages": float(self.sfa.averages)}
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=self.sfa.steps - 1)  # Lightning numbers its steps from 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the last average of a training that stopped early."""
        if self.sfa.finish():
            note_stopped_early(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, the anchor included; empty before the first step."""
        return {**self.sfa.state_dict(), "settings": self._settings.recorded()} if hasattr(self, "sfa") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until training starts, when the module and its device are known."""
        self._resumed = state_dict

    def _catch_up(self, trainer: Trainer, gradients: bool = True) -> None:
        # On resume too: a checkpoint written on an exception may lie between an optimizer step and its average. The
        # gradients of that step are lost then, and beta="auto" does without them.
        while self.sfa.steps < trainer.global_step:
            skipped = gradients and _was_skipped(trainer)
            self.sfa.reach(self.sfa.steps + 1, skipped=skipped, gradients=gradients)

    def _saved(self, trainer: Trainer) -> dict[str, Any]:
        """The state of the checkpoint that training resumes from, checked against this callback; {} at step 0."""
        saved, self._resumed = self._resumed or {}, None
        if not trainer.global_step:
            return {}
        if not saved:
            if self._settings.anchor_is_path:
                _logger.warning("the checkpoint has no state of SFALightning: the settings then are unknown.")
                return {}
            raise StockpotError(
                f"training starts at step {trainer.global_step} without a state of SFALightning, so its anchor is "
                "unknown: pass it, anchor=PATH; for a new task make a new Trainer."
            )
        for name, value in self._settings.recorded().items():
            if saved["settings"].get(name) != value:
                raise setting_differs(name, value, saved["settings"].get(name), "the checkpoint")
        return saved


def _was_skipped(trainer: Trainer) -> bool:
    """Whether a gradient scaler skipped the last step: it does where a gradient is not finite."""
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return False
    groups = trainer.optimizers[0].param_groups
    gradients = [tensor.grad for group in groups for tensor in group["params"] if tensor.grad is not None]
    return not all(bool(gradient.isfinite().all()) for gradient in gradients)


def _refuse(trainer: Trainer, module: LightningModule) -> None:
    strategy = type(trainer.strategy).__name__
    if strategy not in _STRATEGIES:
        raise StockpotError(f"SFALightning averages on one device or under DDP, not under {strategy}.")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if any(kind.__name__ in _REPLACING for kind in type(callback).__mro__):
            raise StockpotError(
                f"{type(callback).__name__} puts its own mean of the weights into the module when training ends, which "
                "was not averaged with the anchor: leave out one of the two callbacks."
            )
    if not module.automatic_optimization or len(trainer.optimizers) != 1:
        raise StockpotError(
            "SFALightning needs automatic optimization with one optimizer; in a module that steps its own, call "
            "stockpot.SFA's step() after optimizer.step()."
        )
