"""What a classifier's outputs stand for, and the mean loss that Transformers computes for each of these problems.

| problem | an output is | labels of a batch | loss |
|---|---|---|---|
| single_label_classification | the logit of a class | (B,) int64, a row each | cross-entropy |
| multi_label_classification | the logit of one label's being there | (B, rows) of 0, 1 and NaN | binary cross-entropy |
| regression | a number | (B, rows) of numbers and NaN | squared error |

NaN is a label that nobody gave: that of another task, or an empty cell. It has no loss. Tokens that are predicted are a
single label each.
"""

from __future__ import annotations

from math import nan
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stockpot.batches.examples import IGNORED, Batch
from stockpot.batches.outputs import has_values, targets_of

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
SINGLE_LABEL: ProblemType = "single_label_classification"


def mean_loss(problem: ProblemType, logits: Tensor, batch: Batch) -> Tensor:
    """The mean of the loss over what is labelled: examples, tokens, or single outputs.

    Equation: cross-entropy, or `mean (z − y)²`, or `mean −(y·log σ(z) + (1−y)·log σ(−z))`
    """
    if problem == SINGLE_LABEL:
        return functional.cross_entropy(logits, targets_of(batch))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets, known = known_values(logits, batch["labels"])
    if problem == "regression":
        each = (logits - targets).square()
    else:
        each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def known_values(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels in the shape and type of the logits (B, rows), 0 where unknown; and a mask of those that are known.

    Labels of a smaller head lack the last rows, those of a larger one have more than the model.
    """
    missing = logits.shape[1] - labels.shape[1]
    labels = functional.pad(labels, (0, missing), value=nan) if missing > 0 else labels[:, : logits.shape[1]]
    known = ~labels.isnan()
    return labels.masked_fill(~known, 0).to(logits.dtype), known


def learnt_mask(logits: Tensor, batch: Batch) -> Tensor:
    """Which of the logits (n, rows) have a target, as (n, 1) or (n, rows) of bool."""
    if has_values(batch):
        return known_values(logits, batch["labels"])[1]
    return (targets_of(batch) != IGNORED)[:, None]


def distillation(student: Tensor, teacher: Tensor, temperature: float, problem: ProblemType = SINGLE_LABEL) -> Tensor:
    """How far the student's outputs (n, rows) are from the teacher's, on the scale of `mean_loss`.

    Equation: `T²·KL(softmax(teacher/T) ‖ softmax(student/T))`, the mean over n; of several labels
    `T²·KL(σ(teacher/T) ‖ σ(student/T))` and of a regression `(student − teacher)²`, the mean over n and rows
    """
    if problem == "regression":
        return (student - teacher).square().mean()
    if problem == "multi_label_classification":  # each output against the zero of its label's not being there
        student, teacher = (torch.stack([z, torch.zeros_like(z)], -1).flatten(0, 1) for z in (student, teacher))
    target, answer = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    divergence = functional.kl_div(answer, target, log_target=True, reduction="batchmean")
    return temperature**2 * divergence
