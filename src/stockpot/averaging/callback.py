"""SFA in the Trainer of Transformers, and so in TRL's trainers."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stockpot.averaging.anchor import Keep, Source
from stockpot.averaging.counting import was_skipped
from stockpot.averaging.live import is_sharded
from stockpot.averaging.lora import BESIDE
from stockpot.averaging.match import check_beta
from stockpot.averaging.schedule import Schedule
from stockpot.averaging.sfa import SFA, Buffers, Rounding
from stockpot.errors import StockpotError
from stockpot.files import write_json
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint

_logger = logging.getLogger("stockpot")
_STATE = "sfa_state.json"
_ANCHOR = Path("sfa-anchor") / "model.safetensors"


class SFACallback(TrainerCallback):
    """Averages the model with its anchor while a `Trainer` trains it: θ ← (1−β)·θ + β·θ_o (arXiv 2501.05559).

    ```python
    Trainer(..., callbacks=[SFACallback(beta=0.25, p=0.1)])
    ```

    The arguments are those of `SFA`; T is the Trainer's `max_steps`, and each `train()` is a task of its own, whose
    anchor by default is the model as that task starts. The average comes right after the optimizer's update and
    before anything is logged, evaluated or saved; whether it is due depends on `global_step` alone, as the Trainer
    counts: micro-batches do not count, an fp16 update that was skipped does, but weights that have not moved since the
    last average are not averaged again.

    Resuming: `sfa_state.json` in each checkpoint holds the settings, and `sfa-anchor/` in `output_dir` the anchor,
    unless that is a path. A resumed run checks the one and reads the other; it never takes mid-task weights for the
    anchor; with LoRA alone there is none to save. A training that stops early is averaged at its end, which no
    checkpoint on disk holds then; with `load_best_model_at_end` it is left as loaded. Both are logged.

    Raises StockpotError as `SFA` does, with DeepSpeed, and on resume when settings differ or the anchor is gone.
    `sfa` is the running SFA, with its counts and seconds.
    """

    sfa: SFA

    def __init__(
        self,
        *,
        beta: float | Mapping[str, float],
        p: float | None = None,
        every: int | None = None,
        anchor: Source = "start",
        keep: Keep | None = None,
        new: Sequence[str] = (),
        rounding: Rounding | None = None,
        buffers: Buffers = "average",
        reset_optimizer: bool = False,
        seed: int = 0,
    ) -> None:
        Schedule(p=p, every=every, total_steps=1)  # a mistake is told here; T is known when training begins
        self._anchor = anchor
        self._keep = keep
        self._settings: dict[str, Any] = {
            "beta": check_beta(beta),
            "p": p,
            "every": every,
            "new": [new] if isinstance(new, str) else list(new),
            "rounding": rounding,
            "buffers": buffers,
            "reset_optimizer": reset_optimizer,
        }
        self._seed = seed
        self._anchor_id: str | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes the anchor at a fresh start, and finds the saved one on resume."""
        if getattr(args, "deepspeed", None) or type(optimizer).__module__ == "accelerate.utils.deepspeed":
            raise StockpotError("DeepSpeed keeps fp32 copies that would overwrite an average; train without deepspeed.")
        assert model is not None
        self._anchor_id = None
        saved = self._saved(args, state) if state.global_step else {}
        anchor, keep = self._anchor, self._keep
        needs_none = "anchor" in saved and saved["anchor"] is None
        if state.global_step and not self._is_path() and not needs_none:
            anchor, keep = self._saved_anchor(args, saved), self._keep or "device"
            self._anchor_id = saved.get("anchor_id")
        self.sfa = SFA(
            model, anchor=anchor, keep=keep, total_steps=state.max_steps, optimizer=optimizer, seed=self._seed,
            **self._settings,
        )  # fmt: skip
        if needs_none and self.sfa.anchor:
            name = next(iter(self.sfa.anchor))
            raise StockpotError(f"'{name}' is trained here and was not when the run began: resume with what it began.")
        if state.global_step:
            self.sfa.doubt = None  # ΔW is what the run has learnt so far
        self.sfa.check_start()
        self.sfa.averages = saved.get("averages", 0)
        self.sfa.last_average = state.global_step if self.sfa.schedule.due(state.global_step) else 0
        if args.save_strategy != "no" and not self._is_path() and any(map(is_sharded, self.sfa.anchor.values())):
            raise StockpotError("a sharded anchor cannot be saved with checkpoints yet; train with save_strategy='no'.")

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Averages when step `global_step + 1`, which has just been made, is one to average after."""
        self.sfa.reach(state.global_step + 1, skipped=was_skipped(optimizer))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes what a resumed run checks, and once in a training the anchor."""
        if not state.is_world_process_zero:
            return
        own = bool(self.sfa.anchor) and not self._is_path()
        if own and self._anchor_id is None:
            self._anchor_id = uuid.uuid4().hex
            metadata = {"anchor_id": self._anchor_id, **(BESIDE if self.sfa.factors else {})}
            save_checkpoint(self.sfa.anchor, _folder(args) / _ANCHOR, metadata)
        write_json(
            _folder(args) / f"checkpoint-{state.global_step}" / _STATE,
            {
                **self._settings,
                "total_steps": state.max_steps,
                "anchor": str(self._anchor) if self._is_path() else str(_ANCHOR.parent) if own else None,
                "anchor_id": self._anchor_id,
                "steps": state.global_step,
                "averages": self.sfa.averages,
            },
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Makes the last average of a training that stopped early."""
        self.sfa.steps = state.global_step
        if self.sfa.last_average >= state.global_step:
            return
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            _logger.warning("training stopped early: the best checkpoint, as loaded, is left without a last average.")
            return
        self.sfa.finish()
        _logger.warning(
            "training stopped early, at step %d: averaged a last time; the last checkpoint on disk holds the weights "
            "before it, so save the model again.",
            state.global_step,
        )

    def _is_path(self) -> bool:
        return isinstance(self._anchor, str | os.PathLike) and self._anchor != "start"

    def _saved(self, args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
        """`sfa_state.json` of the checkpoint that training resumes from, checked against this callback."""
        file = _folder(args) / f"checkpoint-{state.global_step}" / _STATE
        if not file.is_file():
            if self._is_path():
                _logger.warning("%s is missing: whether the run was begun with these settings is not known.", file)
                return {}
            raise StockpotError(f"resuming needs {file}, which is missing: pass the anchor of the run, anchor=PATH.")
        try:
            saved = dict[str, Any](json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise StockpotError(f"{file} is damaged: {error}") from error
        for name, value in {**self._settings, "total_steps": state.max_steps}.items():
            if json.dumps(saved.get(name)) != json.dumps(value):
                raise StockpotError(
                    f"{name} is {value!r} here and {saved.get(name)!r} in {file}: resume with what the run began with."
                )
        return saved

    def _saved_anchor(self, args: TrainingArguments, saved: Mapping[str, Any]) -> Path:
        file = _folder(args) / _ANCHOR
        if saved.get("anchor_id") is None:
            raise StockpotError(f"this run was begun with anchor='{saved.get('anchor')}': pass it again to resume.")
        if not file.is_file():
            raise StockpotError(f"the run's anchor {file} is missing: pass it from where it is now, anchor=PATH.")
        if open_checkpoint(file).metadata.get("anchor_id") != saved.get("anchor_id"):
            raise StockpotError(f"{file} is the anchor of another run in this folder: pass the right one, anchor=PATH.")
        return file


def _folder(args: TrainingArguments) -> Path:
    return Path(args.output_dir or ".")
