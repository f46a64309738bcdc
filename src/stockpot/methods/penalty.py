"""Quadratic penalties as gradients: no autograd graph, no activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stockpot.averaging.anchor import kept, offered
from stockpot.averaging.live import Live, live_tensors, local
from stockpot.averaging.match import Pair, match
from stockpot.errors import StockpotError, did_you_mean

Tensors = dict[str, Tensor]


def trainable(model: nn.Module) -> list[Live]:
    """What a penalty can act on: every trainable tensor once, by its own name."""
    return live_tensors(model, buffers=False, halves=True)


def anchored(model: nn.Module, anchor: Path, new: Sequence[str]) -> list[Pair]:
    """Every trainable tensor θ with its anchor θ_o, held on the tensor's device; of a grown one, the rows of both.

    Raises StockpotError where the anchor does not fit the model; a tensor that it lacks must match a pattern of `new`.
    """
    live = trainable(model)
    opened = offered(anchor, live, model)
    pairs = match(live, opened.tensors, opened.label, 1.0, new)
    held = kept(opened, pairs, model, "device", None)
    return [replace(pair, anchor=held.tensors[pair.name]) for pair in pairs]


def gradient(tensor: Tensor) -> Tensor:
    """The tensor's gradient, to be added to; none means zero."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return local(tensor.grad)


def pull(pair: Pair, strength: float, importance: Tensor | None = None) -> None:
    """Adds to the gradient that of a quadratic penalty.

    Equation: `g ← g + λ·F·(θ − θ_o)`, the gradient of `(λ/2) Σ F (θ−θ_o)²`; F is 1 without an `importance`.
    """
    theta, anchor = pair.views
    own = gradient(pair.tensor)
    own = own if pair.rows is None else own.narrow(0, 0, pair.rows)
    if importance is None:
        own.add_(theta - anchor, alpha=strength)
    else:
        own.addcmul_(importance, theta - anchor, value=strength)


def fitted(importances: Mapping[str, Tensor], live: Sequence[Live], label: str) -> Tensors:
    """Importances for every trainable tensor that has one, in its shape, type and place: zero for rows that grew since.

    Raises StockpotError where they are those of another model: a name that the model lacks, or another shape.
    """
    by_name = {name: one for one in live for name in one.names}
    found: Tensors = {}
    for name, importance in importances.items():
        one = by_name.get(name)
        if one is None:
            hint = did_you_mean(name, by_name)
            raise StockpotError(f"{label} fit another model, or a frozen part: no weight is called '{name}'.{hint}")
        shape, wanted = tuple(importance.shape), tuple(one.tensor.shape)
        if shape[1:] != wanted[1:] or len(shape) != len(wanted) or (shape and shape[0] > wanted[0]):
            raise StockpotError(f"{label} fit another model: '{name}' has shape {shape} there, {wanted} here.")
        found[one.name] = grown(importance.to(one.tensor), wanted)
    return found


def grown(values: Tensor, shape: Sequence[int]) -> Tensor:
    """The values with rows of zeros added, where the shape has more of them."""
    missing = shape[0] - values.shape[0] if shape else 0
    return functional.pad(values, (0, 0) * (values.dim() - 1) + (0, missing)) if missing else values
