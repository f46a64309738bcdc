"""The input of the loop of one task, and the pieces that both loops share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stockpot.batches.examples import Batch, TrainingData
from stockpot.batches.losses import SINGLE_LABEL, ProblemType, mean_loss
from stockpot.batches.outputs import logits_of, targets_of
from stockpot.errors import StockpotError, did_you_mean
from stockpot.methods.base import Method
from stockpot.streams.scenario import mask_rivals
from stockpot.training.batches import EpochBatches, batches_in
from stockpot.training.class_weights import CLASS_WEIGHTS

STREAM_TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")  # the run writes to these: a task is part of a stream
_PACKAGES = {"comet_ml": "comet-ml", "azure_ml": "azureml-mlflow", "flyte": "flytekitplugins-deck-standard"}


class Diverged(StockpotError):  # noqa: N818 - what happened, as Interrupted is
    """Training left a NaN or an infinity."""


class Interrupted(Exception):  # noqa: N818 - a request of the user's, not an error
    """Training stopped between two steps because it was asked to; a checkpoint is on disk."""


@dataclass
class Stop:
    """Set by a signal handler; the loops look at it after every step."""

    requested: bool = False


@dataclass
class Job:
    """One task's training: `settings` are TrainingArguments by name, as a recipe's `train` has them."""

    model: nn.Module
    method: Method[Any]
    data: TrainingData
    settings: dict[str, Any]
    seed: int
    folder: Path  # for checkpoints
    owners: Tensor | None = None  # see scenario.Rows.owners
    class_weights: Tensor | None = None  # of the output rows, see class_weights.row_weights
    problem: ProblemType = SINGLE_LABEL  # what the outputs stand for
    resume_from: Path | None = None
    optimizer_state: Mapping[str, Tensor] | None = None  # of the task before, for boundary: keep-optimizer
    stop: Stop = field(default_factory=Stop)
    on_begin: Callable[[], None] = lambda: None  # set-up is over, the first step comes next
    on_step: Callable[[int, int], None] = lambda step, total: None
    on_log: Callable[[int, Mapping[str, float]], None] | None = (
        None  # at every `logging_steps`: loss, rate and the like
    )
    before_checkpoint: Callable[[], None] = lambda: None  # raises where a checkpoint would not fit
    on_checkpoint: Callable[[int, Path], None] = lambda step, folder: None


def batch_loss(job: Job, model: nn.Module, batch: Batch, smoothing: float = 0.0, share: float = 1.0) -> Tensor:
    """The mean loss of a micro-batch as the method changes it: cross-entropy over the rows that compete, of examples or
    tokens; for several labels or numbers see `mean_loss`. `share` is the factor of `weight_shares`.
    """
    logits = logits_of(model, batch)
    if job.problem == SINGLE_LABEL:
        targets = targets_of(batch)
        loss = cross_entropy(mask_rivals(logits, targets, job.owners), targets, smoothing, job.class_weights)
    else:
        loss = mean_loss(job.problem, logits, batch)
    return job.method.loss(loss if share == 1 else loss * share, logits, batch, model)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """The mean cross-entropy over targets that are not IGNORED, in fp32 or better, as torch has it.

    Equation: with class weights `Σ_i w[y_i]·CE_i / Σ_i w[y_i]`.
    Label smoothing spreads its share over the rows that compete, those above −∞.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weights = None if weights is None else weights.to(logits)
    if not smoothing or not bool(torch.isneginf(logits).any()):
        return functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    competing = ~torch.isneginf(logits)
    surprise = -logits.log_softmax(-1)
    if weights is None:
        uniform = surprise.masked_fill(~competing, 0).sum(-1) / competing.sum(-1)
        return (1 - smoothing) * functional.cross_entropy(logits, labels) + smoothing * uniform.mean()
    uniform = (surprise * weights).masked_fill(~competing, 0).sum(-1) / competing.sum(-1)
    weighted = functional.cross_entropy(logits, labels, weights)
    return (1 - smoothing) * weighted + smoothing * uniform.sum() / weights[labels].sum()


def weight_shares(job: Job, batches: Sequence[Batch]) -> list[float]:
    """Factors of the micro-batches' cross-entropies that make a step's gradient that of its whole batch.

    Equation: `(W_b / ΣW) / (n_b / Σn)`, W_b the class weights of a micro-batch's n_b targets together: a weighted mean
    is over weights, and the loops divide a step's loss by examples. Without class weights 1.
    """
    if job.class_weights is None or len(batches) == 1:
        return [1.0] * len(batches)
    weights = [float(job.class_weights.to(batch["labels"].device)[targets_of(batch)].sum()) for batch in batches]
    counts = [len(targets_of(batch)) for batch in batches]
    mean = sum(weights) / sum(counts)
    return [weight / count / mean for weight, count in zip(weights, counts, strict=True)]


def total_steps(batches: int, accumulation: int, epochs: float, max_steps: int) -> int:
    """T, the optimizer steps of a task: `max_steps` where positive, else epochs × ⌈batches / accumulation⌉."""
    return max_steps if max_steps > 0 else math.ceil(epochs * max(1, math.ceil(batches / accumulation)))


def epoch_batches(data: TrainingData, settings: dict[str, Any], folder: Path, seed: int) -> EpochBatches:
    """The batches of an epoch, in either loop."""
    args = training_arguments(settings, folder, seed)
    return EpochBatches(data, args.train_batch_size, seed, args.dataloader_drop_last)


def planned_steps(job: Job) -> int:
    """T of this job, whichever loop trains it."""
    return steps_for(job.data.epoch, training_arguments(job.settings, job.folder, job.seed))


def steps_for(examples: int, args: Any) -> int:
    """T of a task with so many examples in an epoch; `args` are TrainingArguments.

    Raises StockpotError where nothing would be trained.
    """
    batches = batches_in(examples, args.train_batch_size, args.dataloader_drop_last)
    if batches == 0:
        raise StockpotError(
            f"train.dataloader_drop_last: {examples} examples do not fill one batch of {args.train_batch_size}: "
            "nothing would be trained."
        )
    return total_steps(batches, args.gradient_accumulation_steps, args.num_train_epochs, args.max_steps)


def training_arguments(settings: dict[str, Any], folder: Path, seed: int) -> Any:
    """Transformers' TrainingArguments, of all settings but the class weights; raises StockpotError for a bad value."""
    from transformers import TrainingArguments

    defaults: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "save_steps": 500}
    fixed = {"output_dir": str(folder), "seed": seed, "save_strategy": "steps", "eval_strategy": "no"}
    known = {key: value for key, value in settings.items() if key != CLASS_WEIGHTS}
    try:
        arguments = TrainingArguments(**{**defaults, **known, **fixed})
    except (TypeError, ValueError, ImportError) as error:
        raise StockpotError(_refusal(settings, str(error))) from error
    _check_trackers(arguments.report_to)
    return arguments


def _check_trackers(names: Sequence[str]) -> None:
    """Raises StockpotError for a tracker that Transformers does not know, or that is not installed."""
    if not names:
        return
    from transformers.integrations import integration_utils

    known = integration_utils.INTEGRATION_TO_CALLBACK
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f" Known: {', '.join(known)}."
            raise StockpotError(f"train.report_to: unknown tracker {name!r}.{hint}")
        if not _is_installed(name, integration_utils):
            package = _PACKAGES.get(name, name)
            raise StockpotError(
                f"train.report_to: {name} is not installed here: pip install {package}, or leave it out."
            )


def _is_installed(name: str, integrations: Any) -> bool:
    if name in ("azure_ml", "flyte"):  # Transformers does not report reliably whether these are
        return True
    if name not in STREAM_TRACKERS:
        return name in integrations.get_available_reporting_integrations()
    try:
        return bool(getattr(integrations, f"is_{name}_available")())
    except ImportError:  # something that it needs is missing
        return False


def _refusal(settings: dict[str, Any], message: str) -> str:
    """The message of TrainingArguments, with the key where it can be found; its long lists of values become a hint."""
    match = re.match(r"(\S+) is not a valid \w+, please select one of \[(.*)\]", message, re.DOTALL)
    if match is None:
        return f"train: {message.splitlines()[0]}"
    keys = [key for key, value in settings.items() if str(value) == match[1]]
    known = re.findall(r"'([^']+)'", match[2])
    hint = did_you_mean(match[1], known) or f" Known: {', '.join(known)}."
    return f"train{''.join(f'.{key}' for key in keys[:1])}: {match[1]!r} is not one of its values.{hint}"


def check_finite(model: nn.Module, task: str) -> None:
    """Raises Diverged, naming the tensor, where training left a NaN or an infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise Diverged(
                f"task {task!r}: training diverged: {name} holds values that are not finite; lower train.learning_rate."
            )
