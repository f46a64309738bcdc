"""How long training takes, estimated from forward and backward passes of a few batches."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from stockpot.batches.examples import TrainingData
from stockpot.batches.outputs import moved_to
from stockpot.checking.outcome import TaskCheck
from stockpot.methods import build, in_role, registry
from stockpot.recipe.schema import Recipe
from stockpot.runs.start_checks import task_settings
from stockpot.seeds import derive
from stockpot.streams.stream import Stream
from stockpot.training.batches import EpochBatches
from stockpot.training.job import Job, batch_loss, training_arguments

_TIMED = 2  # batches, after one to warm up


def seconds_of_tasks(resolved: Recipe, stream: Stream, model: nn.Module, tasks: list[TaskCheck]) -> list[float]:
    """Seconds of each task's forward and backward passes: those of the first task's batches, scaled by what is seen.

    No optimizer steps, so weights stay as they are; what the method does beside, and evaluation, is not in it.
    """
    assert isinstance(resolved.tasks, list), "a resolved recipe lists its tasks"
    settings = task_settings(resolved, resolved.method, resolved.tasks[0])
    seed = derive(resolved.seeds[0], "task", 0)
    args = training_arguments(settings, Path("runs"), resolved.seeds[0])
    data = TrainingData.of(stream.beginning(0, (_TIMED + 1) * args.train_batch_size))
    floor = in_role("floor")
    plain = build(registry()[floor].config_type(name=floor))
    owners = stream.rows.owners(stream.rows.count(len(stream.tasks))) if stream.has_classes else None
    job = Job(model.to(args.device), plain, data, settings, seed, Path("runs"), owners=owners, problem=resolved.problem)
    drawn = list(EpochBatches(data, args.train_batch_size, seed))
    order = [drawn[number % len(drawn)] for number in range(_TIMED + 1)]
    model.train()
    seconds, units = 0.0, 0
    for number, indices in enumerate(order):
        batch = moved_to(model, data.examples.__getitems__(indices))
        started = time.perf_counter()
        batch_loss(job, model, batch).backward()
        model.zero_grad()
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        if number:  # the first one warms up
            seconds += time.perf_counter() - started
            units += _units(batch)
    return [seconds / units * (task.seen_tokens or task.seen_examples) for task in tasks]


def _units(batch: dict[str, torch.Tensor]) -> int:
    """Tokens without padding; images."""
    if "input_ids" not in batch:
        return len(batch["labels"])
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())
