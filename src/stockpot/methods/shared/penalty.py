"""Quadratic penalties as gradients: no activations, and no autograd graph but that of ΔW = s·B·A under LoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stockpot.averaging.anchor import find_anchor, hold_anchor
from stockpot.averaging.lora_factors import Factor, lora_factors
from stockpot.averaging.match import TensorPair, match
from stockpot.averaging.model_tensors import ModelTensor, model_tensors
from stockpot.errors import StockpotError, did_you_mean
from stockpot.methods.base import Tensors
from stockpot.models.names import plain_name
from stockpot.weights.tensor_memory import local_shard


def trainable(model: nn.Module) -> list[ModelTensor]:
    """What a penalty can act on: every trainable tensor once, by its own name.

    Of an adapter of LoRA each weight that it changes, by the plain model's name: its tensor is B, of embeddings A.
    """
    live = model_tensors(model, buffers=False, halves=True, lora=lora_factors(model))
    if not hasattr(model, "peft_config"):
        return live
    return [replace(weight, names=tuple(map(plain_name, weight.names))) for weight in live]


def anchored(model: nn.Module, anchor: Path, new: Sequence[str]) -> list[TensorPair]:
    """Every trainable tensor θ with its anchor θ_o, held on the tensor's device; of a grown one, the rows of both.

    A weight that LoRA changes has no anchor: θ − θ_o is ΔW, and the anchor has to be the weights that it is added to.
    Raises StockpotError where the anchor does not fit the model; a tensor that it lacks must match a pattern of `new`.
    """
    live = trainable(model)
    if all(weight.factor is not None for weight in live):
        return match(live, {}, "", 1.0, new)
    opened = find_anchor(anchor, live, model)
    pairs = match(live, opened.tensors, opened.label, 1.0, new)
    anchors = hold_anchor(opened, [pair for pair in pairs if pair.factor is None], model, "device", None)
    return [pair if pair.factor is not None else replace(pair, anchor=anchors.tensors[pair.name]) for pair in pairs]


def anchor_bytes(pairs: Sequence[TensorPair]) -> int:
    """Memory that the anchors take."""
    return sum(pair.anchor.nbytes for pair in pairs if pair.factor is None)


def gradient(tensor: Tensor) -> Tensor:
    """The tensor's gradient, to add to; created as zeros where there is none."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return local_shard(tensor.grad)


def pull(pair: TensorPair, strength: float, importance: Tensor | None = None) -> None:
    """Adds to the gradient that of a quadratic penalty.

    Equation: `g ← g + λ·F·(θ − θ_o)`, the gradient of `(λ/2) Σ F (θ−θ_o)²`; F is 1 without an `importance`.
    Under LoRA the penalty is that of `F·ΔW²`, whose gradient goes to A and B by the chain rule.
    """
    if pair.factor is not None:
        _through(pair.factor, lambda change: strength * (change if importance is None else importance * change))
        return
    theta, anchor = pair.views
    slope = gradient(pair.tensor)
    slope = slope if pair.rows is None else slope.narrow(0, 0, pair.rows)
    if importance is None:
        slope.add_(theta - anchor, alpha=strength)
    else:
        slope.addcmul_(importance, theta - anchor, value=strength)


def add_slope(pair: TensorPair, slope: Tensor, strength: float) -> None:
    """Adds a gradient of the whole weight: `g ← g + λ·G`, under LoRA by the chain rule."""
    if pair.factor is not None:
        _through(pair.factor, lambda _: strength * slope)
    else:
        gradient(pair.tensor).add_(slope, alpha=strength)


def gap(pair: TensorPair) -> Tensor:
    """θ − θ_o, under LoRA ΔW."""
    if pair.factor is not None:
        return pair.factor.change.detach()
    theta, anchor = pair.views
    return theta - anchor


def _through(factor: Factor, slope: Callable[[Tensor], Tensor]) -> None:
    """Adds to the gradients of A and B those that follow from a gradient of ΔW, `slope(ΔW)`."""
    with torch.enable_grad():
        change = factor.change
    tensors = [tensor for tensor in factor.tensors if tensor.requires_grad]
    for tensor, addend in zip(tensors, torch.autograd.grad(change, tensors, slope(change.detach())), strict=True):
        gradient(tensor).add_(addend)


def fitted(importances: Mapping[str, Tensor], live: Sequence[ModelTensor], label: str) -> Tensors:
    """Importances by trainable tensor, in its shape and type and on its device; zero for rows that were added since.

    Raises StockpotError where they belong to another model: a name that the model lacks, or another shape.
    """
    by_name = {name: weight for weight in live for name in weight.names}
    shaped: Tensors = {}
    for name, importance in importances.items():
        weight = by_name.get(name)
        if weight is None:
            hint = did_you_mean(name, by_name)
            raise StockpotError(
                f"{label} belong to another model, or to a frozen part: no weight is called '{name}'.{hint}"
            )
        whole = weight.tensor if weight.factor is None else weight.factor.layer.get_base_layer().weight
        shape, wanted = tuple(importance.shape), tuple(whole.shape)
        if shape[1:] != wanted[1:] or len(shape) != len(wanted) or (shape and shape[0] > wanted[0]):
            raise StockpotError(f"{label} belong to another model: '{name}' has shape {shape} there, {wanted} here.")
        shaped[weight.name] = grown(importance.to(weight.tensor), wanted)
    return shaped


def grown(values: Tensor, shape: Sequence[int]) -> Tensor:
    """The values, with rows of zeros added where the shape has more rows."""
    missing = shape[0] - values.shape[0] if shape else 0
    return functional.pad(values, (0, 0) * (values.dim() - 1) + (0, missing)) if missing else values
