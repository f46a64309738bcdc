"""The loop of one task in Transformers' Trainer: its hooks call the method's."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from stockpot.batches.examples import Batch
from stockpot.batches.outputs import items_in
from stockpot.errors import StockpotError
from stockpot.files import make_folder, publishing
from stockpot.training.batches import EpochBatches, loader
from stockpot.training.checkpoint_weights import load_weights, save_weights
from stockpot.training.job import STREAM_TRACKERS, Interrupted, Job, batch_loss, training_arguments, weight_shares
from stockpot.training.method_state import read_state, write_state
from stockpot.training.optimizer_state import export_state, import_state

_WEIGHTS = "model.safetensors"


class _Hooks(TrainerCallback):
    """Passes the Trainer's events on to the method and to the run."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.job.on_begin()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        self.job.method.after_step(kwargs["model"], getattr(optimizer, "optimizer", optimizer), state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.job.on_log is not None and "loss" in (logs or {}):  # not the summary at the end
            numbers = {key: float(value) for key, value in logs.items() if isinstance(value, int | float)}
            self.job.on_log(state.global_step, numbers)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.job.on_step(state.global_step, state.max_steps)
        if state.global_step >= state.max_steps:
            control.should_save = (
                False  # the task's model is published next, and the Trainer cannot resume from its last step
            )
        elif self.job.stop.requested:
            control.should_save = True
            control.should_training_stop = True


class TaskTrainer(Trainer):
    """A Trainer that feeds whole batches of tensors, computes the scenario's loss and publishes its checkpoints."""

    def __init__(self, job: Job, args: TrainingArguments) -> None:
        self.job = job
        # compute_loss smooths the labels itself; the Trainer needs a model with a `config` for it.
        self._smoothing = args.label_smoothing_factor
        args.label_smoothing_factor = 0.0
        self._shares: Iterator[float] = iter(())  # of the micro-batches to come in this step
        super().__init__(model=job.model, args=args, compute_loss_func=self._scaled, callbacks=[_Hooks(job)])
        for callback in list(self.callback_handler.callbacks):
            if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
                self.remove_callback(callback)

    @staticmethod
    def _scaled(*_: Any, **__: Any) -> Tensor:
        # Its presence tells the Trainer that compute_loss already divides a step's loss among its micro-batches.
        raise AssertionError("compute_loss never calls this")

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Batches in the order that depends on the task's seed and the epoch only."""
        args = self.args
        batches = EpochBatches(self.job.data, args.train_batch_size, self.job.seed, args.dataloader_drop_last)
        prepared: DataLoader[Batch] = self.accelerator.prepare(
            loader(
                batches,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
                persistent_workers=args.dataloader_persistent_workers,
                prefetch_factor=args.dataloader_prefetch_factor,
            )
        )
        return prepared

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: Any) -> Any:
        """The micro-batches of a step, and how many items they have: examples, or tokens that are learnt."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        self._shares = iter(weight_shares(self.job, batches))
        return batches, sum(items_in(batch) for batch in batches)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """The micro-batch's share of the step's mean loss."""
        loss = batch_loss(self.job, model, inputs, self._smoothing, next(self._shares, 1.0))
        many = items_in(inputs)
        return loss if num_items_in_batch in (None, many) else loss * (many / num_items_in_batch)

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's step; the method sees the gradients once they are complete, before clipping."""
        loss: Tensor = super().training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self.job.method.gradients(self.job.model, self.state.global_step + 1)
        return loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's optimizer, with the state of the task before where the recipe carries it over."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.job.optimizer_state:
            import_state(optimizer, self.job.model, self.job.optimizer_state)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the weights by the model's own names, so that loading is exact, and no `training_args.bin`."""
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.job.model, folder / _WEIGHTS)

    # What follows overrides methods that Transformers keeps private, as read in 5.23.0; nothing public can take their
    # place: `_save_checkpoint` writes a whole checkpoint, and `_load_from_checkpoint` reads the weights of one.
    # tests/training/test_trainer.py holds that the Trainer still has them.

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        output_dir = self.args.output_dir
        target = Path(str(output_dir)) / f"checkpoint-{self.state.global_step}"
        self.job.before_checkpoint()
        with publishing(target) as folder:
            # The Trainer makes checkpoint-N inside its output folder: give it one, and lift the content out.
            self.args.output_dir = str(folder)
            try:
                with _failing_as_a_full_disk():
                    super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = output_dir
            inner = folder / target.name
            for file in inner.iterdir():
                file.rename(folder / file.name)
            inner.rmdir()
            write_state(self.job.method, folder)
        self.job.on_checkpoint(self.state.global_step, target)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.job.model, Path(resume_from_checkpoint) / _WEIGHTS)


@contextlib.contextmanager
def _failing_as_a_full_disk() -> Iterator[None]:
    """Turns a failure of torch.save's writer, which does not give a reason, into the error of a full disk."""
    try:
        yield
    except RuntimeError as error:
        if any(writer in str(error) for writer in ("inline_container", "PytorchStreamWriter", "iostream")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def train_with_trainer(job: Job) -> dict[str, Tensor]:
    """Trains one task to its end; returns the optimizer's state. Raises Interrupted after a requested checkpoint."""
    args = training_arguments(job.settings, job.folder, job.seed)
    args.report_to = [name for name in args.report_to if name not in STREAM_TRACKERS]
    job.before_checkpoint()
    make_folder(job.folder)  # the Trainer would make it without a sync
    settings: Any = getattr(job.model, "config", None)
    caches = getattr(settings, "use_cache", None)  # the Trainer overwrites it
    try:
        trainer = TaskTrainer(job, args)
    except (ImportError, RuntimeError, ValueError) as error:  # an integration that is not installed, and the like
        raise StockpotError(f"train: {str(error).splitlines()[0]}") from error
    if job.resume_from is not None:
        read_state(job.method, job.resume_from)
    try:
        trainer.train(resume_from_checkpoint=str(job.resume_from) if job.resume_from else None)
    except UnpicklingError as error:
        raise StockpotError(
            f"{job.resume_from}: it holds a pickle of more than tensors, which is not loaded."
        ) from error
    except ImportError as error:  # some settings import what they need only here
        raise StockpotError(f"train: {str(error).splitlines()[0]}") from error
    finally:
        if caches is not None:
            settings.use_cache = caches
    if trainer.state.global_step < trainer.state.max_steps:
        if job.stop.requested:
            raise Interrupted
        done = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
        raise StockpotError(f"training stopped at {done}, although nothing stopped it: the task is not done.")
    return export_state(trainer.optimizer, job.model)
