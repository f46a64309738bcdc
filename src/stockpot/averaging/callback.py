"""SFA in the Trainer of Transformers, and so in those of TRL."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stockpot.averaging import saved_anchor
from stockpot.averaging.best_checkpoint import chooses_best, refuse_best_between, saves
from stockpot.averaging.logged_numbers import add_to_logs
from stockpot.averaging.lora_factors import BESIDE
from stockpot.averaging.notes import note_stopped_early
from stockpot.averaging.optimizer_steps import was_skipped
from stockpot.averaging.refusals import between_averages, deepspeed, setting_differs
from stockpot.averaging.resumed_folder import remember_folders, resumed_folder
from stockpot.averaging.saved_squares import read_squares, write_squares
from stockpot.averaging.settings import SFAOptions, SFASettings, lists_settings
from stockpot.averaging.sfa import SFA
from stockpot.errors import StockpotError
from stockpot.files import write_json
from stockpot.weights.tensor_memory import is_sharded

_logger = logging.getLogger("stockpot")
_NAME = "stockpot.SFACallback"  # in the Trainer's state
IMPORTANCE = "sfa-importance"


class SFACallback(TrainerCallback):
    """Averages the model with its anchor while a `Trainer` trains it: θ ← (1−β)·θ + β·θ_o (arXiv 2501.05559).

    ```python
    Trainer(..., callbacks=[SFACallback(beta=0.25, p=0.1)])
    ```

    T is the Trainer's `max_steps`, and each `train()` is a task of its own, whose anchor by default is the model as the
    task starts. The average comes right after the optimizer's update and before anything is logged, evaluated or
    saved. Whether it is due depends on `global_step` alone, as the Trainer counts: micro-batches do not count, an fp16
    update that was skipped does, but weights that have not moved since the last average are not averaged again.

    Resuming needs one folder, `checkpoint-N`, wherever it is now: it holds the settings and the anchor. The anchor is
    written once, to `sfa-anchor/` beside the checkpoints, and each of them has a hard link to it (for an anchor that is
    a path: its SHA-256). A resumed run never takes mid-task weights for the anchor; with LoRA alone there is none to
    save. With `every`, `max_steps` may change; with `p` it cannot, since p·T says when to average.

    A checkpoint is where an unbroken training would be at that step. A training that stops early is averaged once more
    in memory, after the last checkpoint, which is logged: save the model. `load_best_model_at_end` and
    `save_strategy="best"` choose among checkpoints, so an average has to be due at every evaluation, as with
    `every=eval_steps`; between two averages the weights are plain fine-tuning.

    With `beta="auto"` gradients are observed as the optimizer got them: the mean over micro-batches and processes,
    after clipping. Each checkpoint has the sums of their squares, and at its end a training writes the importance of
    the weights to `sfa-importance/` in its output folder: `importance="OUTPUT/sfa-importance"` is for the next task.

    Every log of the training loss, at the Trainer's `logging_steps`, also has `sfa/distance`, ‖θ − θ_o‖₂, which takes a
    pass over the weights, and `sfa/averages`, the averages so far.

    Args:
        beta: as in `SFA`; so are p, every, anchor, keep, new, rounding, buffers, reset_optimizer, seed, strength,
            importance and squares. All are keyword only.

    Attributes:
        sfa: the running `SFA`, with its counts and seconds; set when training starts.

    Raises:
        StockpotError: as `SFA` does; with DeepSpeed; if the best checkpoint could lie between two averages; on resume
            if settings or the anchor differ, or the anchor is missing.
    """

    sfa: SFA

    @lists_settings
    def __init__(self, **settings: Unpack[SFAOptions]) -> None:
        self._settings = SFASettings(**settings)
        remember_folders()
        self._file: Path | None = None
        self._anchor_id: str | None = None
        self._sha256: str | None = None
        self._sharded = False

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
            raise deepspeed()
        assert model is not None
        self._file = self._anchor_id = self._sha256 = None
        saved = self._saved(args, state) if state.global_step else {}
        settings = replace(self._settings, seed=saved.get("seed", self._settings.seed))
        needs_none = "anchor" in saved and saved["anchor"] is None
        if state.global_step and not settings.anchor_is_path and not needs_none:
            self._file, self._anchor_id = self._saved_anchor(args, state, saved), saved["anchor_id"]
            settings = replace(settings, anchor=self._file, keep=settings.keep or "device")
        self.sfa = SFA(model, total_steps=state.max_steps, optimizer=optimizer, **settings.options())
        if needs_none and self.sfa.anchor:
            name = next(iter(self.sfa.anchor))
            raise StockpotError(f"'{name}' is trained here and was not when the training started: freeze it to resume.")
        if saved.get("anchor_sha256") not in (None, self.sfa.anchor_sha256()):
            raise StockpotError(f"{settings.anchor} differs, in what is trained here, from the anchor of the start.")
        self._sharded = any(map(is_sharded, model.parameters()))
        if state.global_step:
            self.sfa.doubt = None  # ΔW is what the run has learnt so far
            if settings.automatic:
                self.sfa.load_observed(read_squares(resumed_folder(args, state)))
        self.sfa.check_start()
        due = self.sfa.schedule.due(state.global_step)
        self.sfa.averages = saved.get("averages", 0)
        self.sfa.last_average = saved.get("last_average", state.global_step if due else 0)
        refuse_best_between(args, state, self.sfa.schedule, kwargs.get("train_dataloader"))
        self._begin_saving(args, state)
        add_to_logs(self, self._numbers)

    def _numbers(self) -> dict[str, float]:
        averages = {"sfa/averages": float(self.sfa.averages)}
        try:
            return {"sfa/distance": self.sfa.distance(), **averages}
        except StockpotError:  # sharded factors of LoRA have none
            return averages

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Averages when step `global_step + 1`, which has just been made, is one to average after."""
        if control.should_training_stop:  # a SIGTERM, which saves before this step
            self._complete_unseen(args, state)
        self.sfa.reach(state.global_step + 1, skipped=was_skipped(optimizer))
        self._note(state, state.global_step + 1)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keeps the weights of a training that stops within an epoch, and between averages, out of the comparison."""
        if chooses_best(args) and control.should_training_stop and self.sfa.last_average < state.global_step:
            control.should_evaluate = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Completes the checkpoint: the settings and the anchor."""
        checkpoint = self._written(args, state)
        self._begin_saving(args, state, now=True)
        self._complete(args, state, checkpoint or _folder(args) / f"checkpoint-{state.global_step}")
        if chooses_best(args) and state.best_global_step == state.global_step > self.sfa.last_average:
            remedy = "average at every evaluation."
            raise between_averages("the best checkpoint so far is that of", state.global_step, remedy)

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Completes the checkpoint before it goes to the hub, which comes before `on_save`."""
        self._complete_unseen(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Makes the last average of a training that stopped early."""
        self._complete_unseen(args, state)
        self.sfa.steps = state.global_step
        self._finish(args, state)
        self._save_importance(args, state)

    def _finish(self, args: TrainingArguments, state: TrainerState) -> None:
        loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if loaded and self.sfa.schedule.due(state.best_global_step or 0):
            return
        if self.sfa.finish():
            note_stopped_early(state.global_step)

    def _save_importance(self, args: TrainingArguments, state: TrainerState) -> None:
        if self._settings.automatic and state.global_step:
            importance = self.sfa.importance()  # on every process: shards are gathered
            if state.is_world_process_zero:
                importance.save(_folder(args) / IMPORTANCE)

    def _begin_saving(self, args: TrainingArguments, state: TrainerState, now: bool = False) -> None:
        """Writes the anchor beside the checkpoints to come, once; `now` if there is a checkpoint already."""
        if self._sha256 is not None or not (now or saves(args)):
            return
        anchor = not self._settings.anchor_is_path and any(map(is_sharded, self.sfa.anchor.values()))
        if anchor or (self._settings.automatic and self._sharded):
            what = "a sharded anchor" if anchor else "sharded squares of gradients"
            raise StockpotError(f"{what} cannot be saved with checkpoints yet; train with save_strategy='no'.")
        self._sha256 = self.sfa.anchor_sha256()
        if state.is_world_process_zero and self.sfa.anchor and not self._settings.anchor_is_path:
            if self._file is not None:
                saved_anchor.take_over(self._file, _folder(args))
            else:
                self._anchor_id = uuid.uuid4().hex
                metadata = {"anchor_id": self._anchor_id, **(BESIDE if self.sfa.factors else {})}
                saved_anchor.write(self.sfa.anchor, _folder(args), metadata)
        self._note(state, state.global_step)

    def _note(self, state: TrainerState, step: int) -> None:
        """Writes what a resumed run checks into the Trainer's state, which goes into every checkpoint."""
        path = self._settings.anchor_is_path
        state.stateful_callbacks[_NAME] = {
            **self._compared(),
            "total_steps": state.max_steps,
            "anchor": str(self._settings.anchor) if path else saved_anchor.FOLDER if self.sfa.anchor else None,
            "anchor_id": self._anchor_id,
            "anchor_sha256": self._sha256,
            "steps": step,
            "averages": self.sfa.averages,
            "last_average": self.sfa.last_average,
            "seed": self.sfa.seed,
        }

    def _complete_unseen(self, args: TrainingArguments, state: TrainerState) -> None:
        """Completes a checkpoint that no `on_save` announced, if this training, not an earlier one, wrote it."""
        checkpoint = self._written(args, state)
        if checkpoint is not None:
            self._complete(args, state, checkpoint)

    def _written(self, args: TrainingArguments, state: TrainerState) -> Path | None:
        """The checkpoint of this step that this training wrote; a hyperparameter search has a folder for each trial."""
        name, facts = f"checkpoint-{state.global_step}", state.stateful_callbacks.get(_NAME)
        for folder in (_folder(args) / name, *sorted(_folder(args).glob(f"*/{name}"))):
            file = folder / "trainer_state.json"
            if file.is_file() and TrainerState.load_from_json(str(file)).stateful_callbacks.get(_NAME) == facts:
                return folder if facts else None
        return None

    def _complete(self, args: TrainingArguments, state: TrainerState, checkpoint: Path) -> None:
        """Puts settings and anchor into a checkpoint."""
        if state.is_world_process_zero:
            facts = state.stateful_callbacks[_NAME]
            if facts["anchor_id"] is not None:
                saved_anchor.link(saved_anchor.file_in(_folder(args)), checkpoint)
            if self._settings.automatic:
                write_squares(self.sfa.observed(), checkpoint)
            write_json(checkpoint / saved_anchor.STATE, facts)

    def _compared(self) -> dict[str, Any]:
        """The settings that a resumed training must share."""
        settings = self._settings
        return {"beta": settings.beta, "p": settings.p, "every": settings.every, **settings.recorded()}

    def _saved(self, args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
        """What the checkpoint that training resumes from records, checked against this callback."""
        folder = resumed_folder(args, state)
        file, saved = folder / saved_anchor.STATE, state.stateful_callbacks.get(_NAME)
        if not isinstance(saved, dict) or saved.get("steps") != state.global_step:  # of an older Stockpot
            saved = _read(file)
        if saved is None:
            if self._settings.anchor_is_path:
                _logger.warning("%s is missing: whether the training started with these settings is unknown.", file)
                return {}
            raise StockpotError(f"resuming needs {file}, which is missing: pass the anchor of the run, anchor=PATH.")
        for name, value in self._compared().items():
            if json.dumps(saved.get(name)) != json.dumps(value):
                raise setting_differs(name, value, saved.get(name), folder)
        if self._settings.p is not None and saved.get("total_steps") != state.max_steps:
            raise StockpotError(
                f"T, the steps of the training, is {state.max_steps} here and {saved.get('total_steps')} in {folder}: "
                "p·T says when to average, so resume with the same T; with every= it could change."
            )
        return dict(saved)

    def _saved_anchor(self, args: TrainingArguments, state: TrainerState, saved: Mapping[str, Any]) -> Path:
        if saved.get("anchor_id") is None:
            raise StockpotError(f"this training started with anchor='{saved.get('anchor')}': pass it again to resume.")
        checkpoint = resumed_folder(args, state)
        return saved_anchor.find((checkpoint, checkpoint.parent, _folder(args)), saved["anchor_id"])


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        return dict[str, Any](json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise StockpotError(f"{file} is damaged: {error}") from error


def _folder(args: TrainingArguments) -> Path:
    return Path(args.output_dir or ".")
