"""SFA in Lightning's Trainer; for the extra `lightning`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from stockpot.averaging.anchor import AnchorSource, Keep
from stockpot.averaging.lightning_best import check_compared, refuse_monitor_between
from stockpot.averaging.schedule import Schedule
from stockpot.averaging.settings import check_beta
from stockpot.averaging.sfa import SFA, Buffers, Rounding
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

    The arguments are those of `SFA`; T is `trainer.estimated_stepping_batches`, and each `fit` of a new Trainer is a
    task of its own, whose anchor by default is the module as that task starts. The average comes at the end of the
    batch whose optimizer step was due (as Lightning counts them: batches that only accumulate gradients do not count,
    a step that a gradient scaler skipped does), before validation and before `ModelCheckpoint` saves.

    Resuming: a checkpoint holds SFA's counts and the anchor, as many bytes as the weights, or only its path where it
    is one. `fit(ckpt_path=…)` goes on with that anchor, never with mid-task weights, and equals an unbroken training.
    An anchor by path is compared with the one of the beginning. With `every`, the length of the training may change.
    A training that stops early is averaged at its end, which no checkpoint saved before holds; that is logged. Where
    `ModelCheckpoint` monitors a score, an average has to be due at every validation: else its best could be plain
    fine-tuning.

    Raises StockpotError as `SFA` does; for manual optimization, several optimizers and strategies other than one
    device and DDP; where the best of weights between two averages would be chosen; on resume when settings or the
    anchor differ, or the checkpoint has no state of this callback. `sfa` is the running SFA, with its counts and
    seconds.
    """

    sfa: SFA

    def __init__(
        self,
        *,
        beta: float | Mapping[str, float],
        p: float | None = None,
        every: int | None = None,
        anchor: AnchorSource = "start",
        keep: Keep | None = None,
        new: Sequence[str] = (),
        rounding: Rounding | None = None,
        buffers: Buffers = "average",
        reset_optimizer: bool = False,
        seed: int = 0,
    ) -> None:
        Schedule(p=p, every=every, total_steps=1)  # a mistake is told here; T is known when training begins
        self._schedule: dict[str, Any] = {"beta": check_beta(beta), "p": p, "every": every}
        self._anchor = anchor
        self._keep = keep
        self._settings: dict[str, Any] = {
            "new": [new] if isinstance(new, str) else list(new),
            "rounding": rounding,
            "buffers": buffers,
            "reset_optimizer": reset_optimizer,
        }
        self._seed = seed
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
            anchor=self._anchor,
            keep=self._keep,
            total_steps=int(steps) if 0 < steps < math.inf else None,
            optimizer=trainer.optimizers[0],
            seed=self._seed,
            **self._schedule,
            **self._settings,
        )
        if saved:
            self.sfa.load_state_dict(saved)
        else:
            self.sfa.check_start()
            self.sfa.steps = trainer.global_step
            self.sfa.last_average = self.sfa.steps if self.sfa.schedule.due(self.sfa.steps) else 0
        self._catch_up(trainer)
        refuse_monitor_between(trainer, self.sfa)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets nothing be compared that lies between two averages; ModelCheckpoint's turn comes after this."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            check_compared(trainer, self.sfa)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where ModelCheckpoint monitors a score of training."""
        if not trainer.enable_validation:
            check_compared(trainer, self.sfa)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Averages when this batch made the optimizer step that an average is due after."""
        self._catch_up(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the last average of a training that stopped early."""
        if self.sfa.finish():
            _logger.warning(
                "training stopped at step %d, before the average at its end was due: averaged now; checkpoints saved "
                "before hold other weights, so save the module again.",
                trainer.global_step,
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, the anchor included; empty before the first step."""
        return {**self.sfa.state_dict(), "settings": self._settings} if hasattr(self, "sfa") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until training begins, when the module and its device are known."""
        self._resumed = state_dict

    def _catch_up(self, trainer: Trainer) -> None:
        # On resume too: a checkpoint written on an exception may lie between an optimizer step and its average.
        while self.sfa.steps < trainer.global_step:
            self.sfa.reach(self.sfa.steps + 1)

    def _is_path(self) -> bool:
        return isinstance(self._anchor, str | os.PathLike) and self._anchor != "start"

    def _saved(self, trainer: Trainer) -> dict[str, Any]:
        """The state of the checkpoint that training resumes from, checked against this callback; {} at step 0."""
        saved, self._resumed = self._resumed or {}, None
        if not trainer.global_step:
            return {}
        if not saved:
            if self._is_path():
                _logger.warning("the checkpoint has no state of SFALightning: its settings then are not known.")
                return {}
            raise StockpotError(
                f"training begins at step {trainer.global_step} without a state of SFALightning, so its anchor is not "
                "known: pass it, anchor=PATH; for a new task make a new Trainer."
            )
        for name, value in self._settings.items():
            if saved["settings"].get(name) != value:
                raise StockpotError(
                    f"{name} is {value!r} here and {saved['settings'].get(name)!r} in the checkpoint: resume with what "
                    "the training began with."
                )
        return saved


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
