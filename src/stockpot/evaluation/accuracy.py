"""Accuracy of a classifier on a task's test examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.batches.outputs import evaluation_mode, logits_of, moved_to


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, candidates: Tensor, batch_size: int) -> float:
    """The fraction of examples whose label is the highest logit among the candidate rows, (rows,) of bool.

    A label whose row the model does not have yet counts as missed. Every module's mode is restored.
    """
    barred = ~candidates.to(next(model.parameters()).device)
    hits = 0
    with evaluation_mode(model):
        for start in range(0, len(examples), batch_size):
            batch = moved_to(model, examples.__getitems__(range(start, min(start + batch_size, len(examples)))))
            predicted = logits_of(model, batch).masked_fill(barred, float("-inf")).argmax(dim=-1)
            hits += int((predicted == batch["labels"]).sum())
    return hits / len(examples)
