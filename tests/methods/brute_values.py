"""The Fisher of several labels or numbers, one example and one output at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from toy import Weights

from stockpot.batches.examples import TensorExamples


def by_hand_fisher(model: nn.Module, examples: TensorExamples, kind: str, problem: str) -> Weights:
    """`exact`: Σ_c Var(y_c)·(∂z_c)²; `empirical` and `predicted`: (∂ Σ_c log p(y_c))² with the true or likeliest y."""
    total = {name: torch.zeros_like(tensor).detach() for name, tensor in model.named_parameters()}

    def add(value: Tensor, weight: float) -> None:
        slopes = torch.autograd.grad(value, list(model.parameters()))
        for into, slope in zip(total.values(), slopes, strict=True):
            into.add_(slope.square(), alpha=weight / len(examples))

    for x, labels in zip(examples.pixel_values, examples.labels, strict=True):
        known = (~labels.isnan()).nonzero().flatten().tolist()
        if kind == "exact":
            for output in known:
                z = model(x[None])[0, output]
                p = float(z.detach().sigmoid())
                add(z, 1.0 if problem == "regression" else p * (1 - p))
            continue
        z = model(x[None])[0, known]
        y = labels[known] if kind == "empirical" else (z > 0).double()
        if problem == "regression":
            add(-0.5 * (z - y).square().sum(), 1.0)
        else:
            add(-nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum"), 1.0)
    return total
