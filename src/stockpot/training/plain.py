"""The loop of one task in plain torch: the same batches, the same hooks in the same places, without the Trainer."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stockpot.batches.outputs import items_in, moved_to
from stockpot.errors import StockpotError, did_you_mean
from stockpot.files import publishing
from stockpot.training.batches import EpochBatches
from stockpot.training.checkpoint_weights import load_weights, save_weights
from stockpot.training.class_weights import CLASS_WEIGHTS
from stockpot.training.job import (
    STREAM_TRACKERS,
    Interrupted,
    Job,
    batch_loss,
    planned_steps,
    training_arguments,
    weight_shares,
)
from stockpot.training.method_state import read_state, write_state
from stockpot.training.optimizer_state import export_state, import_state

_WEIGHTS, _OPTIMIZER, _PLACE = "model.safetensors", "optimizer.safetensors", "place.json"

KNOWN = {
    "per_device_train_batch_size", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "max_grad_norm", "num_train_epochs", "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "warmup_ratio", "gradient_accumulation_steps", "label_smoothing_factor", "save_steps", "dataloader_drop_last",
    "use_cpu", "optim", "logging_steps", "logging_first_step", "report_to", CLASS_WEIGHTS,
}  # fmt: skip


def train_plainly(job: Job) -> dict[str, Tensor]:
    """Trains one task to its end; returns the optimizer's state. Raises Interrupted after a requested checkpoint."""
    args, total = training_arguments(job.settings, job.folder, job.seed), planned_steps(job)
    check_settings(job.settings)
    optimizer, schedule = _optimizer(job, args, total)
    if job.optimizer_state and job.resume_from is None:  # a checkpoint has all, and less where a method reset it
        import_state(optimizer, job.model, job.optimizer_state)
    step = 0 if job.resume_from is None else _load(job, job.resume_from, optimizer, schedule)
    batches = EpochBatches(job.data, args.train_batch_size, job.seed, args.dataloader_drop_last)
    accumulation = args.gradient_accumulation_steps
    per_epoch = -(-len(batches) // accumulation)
    log = _Log(job, args, total, len(batches), step) if job.on_log is not None else None
    job.model.train()
    job.on_begin()
    while step < total:
        batches.set_epoch(step // per_epoch)
        order = list(batches)
        for first in range(step % per_epoch * accumulation, len(order), accumulation):
            group = order[first : first + accumulation]
            loss = _accumulate(job, group, args)
            step += 1
            job.method.gradients(job.model, step)
            norm = None
            if args.max_grad_norm > 0:
                norm = torch.nn.utils.clip_grad_norm_(job.model.parameters(), args.max_grad_norm)
            rate = schedule.get_last_lr()[0]
            optimizer.step()
            job.method.after_step(job.model, optimizer, step)
            schedule.step()
            optimizer.zero_grad()
            job.on_step(step, total)
            if log is not None:
                log.stepped(step, loss, norm, rate)
            if step == total:
                break
            stopping = job.stop.requested
            if stopping or step % int(args.save_steps) == 0:
                _save(job, step, optimizer, schedule)
            if stopping:
                raise Interrupted
    return export_state(optimizer, job.model)


class _Log:
    """Calls `on_log` at the steps at which the Trainer would, with the same numbers."""

    def __init__(self, job: Job, args: Any, total: int, batches: int, step: int) -> None:
        every = float(args.logging_steps)
        self._every = max(1, math.ceil(total * every) if every < 1 else int(every))
        self._first = bool(args.logging_first_step)
        self._job, self._per_epoch = job, -(-batches // args.gradient_accumulation_steps)
        self._sum: Tensor | None = None
        self._since = step

    def stepped(self, step: int, loss: Tensor, norm: Tensor | None, rate: float) -> None:
        """Adds the step's loss, on its device; where a log is due, reads the mean of those since the last one."""
        self._sum = loss if self._sum is None else self._sum + loss
        if step % self._every and not (step == 1 and self._first):
            return
        numbers = {"loss": float(self._sum) / (step - self._since)}
        if norm is not None:
            numbers["grad_norm"] = float(norm)
        assert self._job.on_log is not None
        self._job.on_log(step, {**numbers, "learning_rate": rate, "epoch": step / self._per_epoch})
        self._sum, self._since = None, step


def _accumulate(job: Job, group: list[list[int]], args: Any) -> Tensor:
    """Adds the gradients of a step; returns its loss."""
    batches = [job.data.examples.__getitems__(indices) for indices in group]
    many = [items_in(batch) for batch in batches]
    losses = []
    for batch, items, share in zip(batches, many, weight_shares(job, batches), strict=True):
        loss = batch_loss(job, job.model, moved_to(job.model, batch), args.label_smoothing_factor, share)
        part = loss if len(batches) == 1 else loss * (items / sum(many))
        part.backward()
        losses.append(part.detach())
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def check_settings(settings: dict[str, Any], source: str = "train") -> None:
    """Raises StockpotError for a name of TrainingArguments that this loop would ignore."""
    for key in settings:
        if key not in KNOWN:
            hint = did_you_mean(key, KNOWN) or " Use loop: trainer."
            raise StockpotError(f"{source}.{key}: the plain loop does not support it.{hint}")
    named = settings.get("report_to", [])
    for name in [named] if isinstance(named, str) else named or []:
        if name not in (*STREAM_TRACKERS, "all", "none"):
            hint = did_you_mean(str(name), STREAM_TRACKERS) or " Use loop: trainer."
            raise StockpotError(f"{source}.report_to: the plain loop does not write to {name!r}.{hint}")


def _optimizer(job: Job, args: Any, total: int) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer and schedule that the Trainer would build from the same arguments."""
    from transformers import Trainer, get_scheduler

    chosen, options = Trainer.get_optimizer_cls_and_kwargs(args, job.model)
    decayed = set(Trainer.get_decay_parameter_names(None, job.model))
    named = [(name, parameter) for name, parameter in job.model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in named if name in decayed], "weight_decay": args.weight_decay},
        {"params": [parameter for name, parameter in named if name not in decayed], "weight_decay": 0.0},
    ]
    optimizer = chosen(groups, **options)
    schedule = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(total),
        num_training_steps=total,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs or {},
    )
    return optimizer, schedule


def _save(job: Job, step: int, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    target = job.folder / f"checkpoint-{step}"
    job.before_checkpoint()
    with publishing(target) as folder:
        save_weights(job.model, folder / _WEIGHTS)
        generators, more = _generators()
        save_file({**export_state(optimizer, job.model), **generators}, str(folder / _OPTIMIZER))
        settings = {key: value for key, value in schedule.state_dict().items() if key != "lr_lambdas"}
        place = {"step": step, "schedule": settings, "generators": more}
        (folder / _PLACE).write_text(json.dumps(place), encoding="utf-8")
        write_state(job.method, folder)
    job.on_checkpoint(step, target)


def _load(job: Job, folder: Path, optimizer: torch.optim.Optimizer, schedule: Any) -> int:
    load_weights(job.model, folder / _WEIGHTS)
    tensors = load_file(str(folder / _OPTIMIZER))
    import_state(optimizer, job.model, tensors)
    place = json.loads((folder / _PLACE).read_text(encoding="utf-8"))
    _restore_generators(tensors, place["generators"])
    schedule.load_state_dict({**schedule.state_dict(), **place["schedule"]})
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    read_state(job.method, folder)
    return int(place["step"])


def _generators() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of torch's, NumPy's and Python's global generators: tensors, and JSON values."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]
    kind, keys, *rest = np.random.get_state()
    values = {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}
    return {f"generators/{device}": state for device, state in enumerate(states)}, values


def _restore_generators(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["generators/0"])
    for device in range(torch.cuda.device_count()):
        if (state := tensors.get(f"generators/{device + 1}")) is not None:  # saved on a machine with this many GPUs
            torch.cuda.set_rng_state(state, device)
    version, internal, gauss = values["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(values["numpy"]))
