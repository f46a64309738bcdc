"""Accuracy of a classifier on a task's test examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stockpot.streams.examples import Examples


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, candidates: Tensor, batch_size: int) -> float:
    """The fraction of examples whose label is the highest logit among the candidate rows, (rows,) of bool.

    A label whose row the model does not have yet counts as missed. Every module's mode is restored.
    """
    device = next(model.parameters()).device
    barred = ~candidates.to(device)
    modes = {module: module.training for module in model.modules()}  # each on its own: some may be frozen in eval
    model.eval()
    hits = 0
    try:
        for start in range(0, len(examples), batch_size):
            stop = min(start + batch_size, len(examples))
            batch = examples.__getitems__(range(start, stop))
            output = model(batch["pixel_values"].to(device))
            logits = output if isinstance(output, Tensor) else output.logits
            predicted = logits.masked_fill(barred, float("-inf")).argmax(dim=-1)
            hits += int((predicted.cpu() == batch["labels"]).sum())
    finally:
        for module, training in modes.items():
            module.training = training
    return hits / len(examples)
