"""The outputs of a model on a batch, the same for a Transformers model and a plain module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from stockpot.batches.examples import IGNORED, Batch

TOKENS = ("input_ids", "attention_mask", "position_ids", "decoder_input_ids")


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """The logits (n, rows) of a model on a batch.

    n is the number of examples for a classifier; for a language model, whose rows are its tokens, n counts all B·L
    positions, of a decoder those of the answers.
    """
    if "pixel_values" in batch:
        output = model(batch["pixel_values"])
    else:
        output = model(**{key: batch[key] for key in TOKENS if key in batch})
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits.flatten(0, 1) if logits.dim() == 3 else logits


def targets_of(batch: Batch) -> Tensor:
    """The correct row for each of the logits, (n,); IGNORED where there is no loss. Not for labels (B, rows)."""
    return batch["labels"].flatten()


def has_values(batch: Batch) -> bool:
    """Whether the labels are (B, rows): several labels of each example, or numbers, with NaN where none is known."""
    return batch["labels"].is_floating_point()


def rows_in(batch: Batch) -> int:
    """n, the number of rows of the logits: examples, or positions of sequences."""
    return len(batch["labels"]) if has_values(batch) else batch["labels"].numel()


def items_in(batch: Batch) -> int:
    """The number of terms in a batch's mean loss: examples, predicted tokens, or labelled outputs."""
    labels = batch["labels"]
    if has_values(batch):
        return int((~labels.isnan()).sum())
    return len(labels) if labels.dim() == 1 else int((labels != IGNORED).sum())


def learnt_logits(logits: Tensor, batch: Batch) -> Tensor:
    """The logits (n, rows) without the positions that have no target."""
    return logits if batch["labels"].dim() == 1 or has_values(batch) else logits[targets_of(batch) != IGNORED]


def moved_to(model: nn.Module, batch: Batch) -> Batch:
    """The batch on the model's device."""
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in batch.items()}


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every module's own mode is restored, since some may be frozen in eval."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
