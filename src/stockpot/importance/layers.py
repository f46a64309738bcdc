"""The gradient of each example for a layer's parameters, from the layer's input and its output's gradient."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Use(NamedTuple):
    """One use of a parameter in a batch."""

    gradients: Callable[
        [int, int], Tensor
    ]  # of the examples first ≤ b < last: (last − first, …), of the parameter's size
    elements: int  # that `gradients` holds for one example
    sums: Callable[[int], Tensor] | None = None  # power → Σ_b |g_b|^power, where that is cheaper


def uses(module: nn.Module, x: Tensor, g: Tensor, examples: int) -> dict[str, Use]:
    """What one call of a known layer is to its parameters ("weight", "bias"); empty for every other call.

    `x` is its input, `g` the gradient of its output. Examples come first in both: (B, …) or (B·tokens, …).
    """
    if any(t.ndim == 0 or len(t) == 0 or len(t) % examples for t in (x, g)):
        return {}
    wide = torch.promote_types(g.dtype, torch.float32)
    x, g = x.to(wide) if x.is_floating_point() else x, g.to(wide)
    for kind, rule in _RULES.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:  # a subclass may compute anything
            return rule(module, x, g, examples)
    if type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils":
        return _linear(module, x, g, examples, transposed=True)
    return _scale(module, x, g, examples)


def powered(gradient: Tensor, power: int) -> Tensor:
    """|g|^power for power 1 or 2."""
    return gradient.square() if power == 2 else gradient.abs()


def _tokens(tensor: Tensor, examples: int) -> Tensor:
    return tensor.reshape(examples, -1, tensor.shape[-1])


def _plain(gradients: Tensor) -> Use:
    return Use(
        lambda first, last: gradients[first:last],
        math.prod(gradients.shape[1:]),
        lambda power: powered(gradients, power).sum(0),
    )


def _linear(module: Any, x: Tensor, g: Tensor, examples: int, transposed: bool = False) -> dict[str, Use]:
    x, g = _tokens(x, examples), _tokens(g, examples)
    left, right = (x, g) if transposed else (g, x)

    def gradients(first: int, last: int) -> Tensor:
        return left[first:last].mT @ right[first:last]

    # With one position per example g_b = l_b r_bᵀ is of rank 1, and |l_i r_j|^p = |l_i|^p |r_j|^p: the sum over the
    # examples is one product of matrices, and no g_b is ever formed.
    def sums(power: int) -> Tensor:
        return powered(left[:, 0], power).T @ powered(right[:, 0], power)

    weight = Use(gradients, left.shape[2] * right.shape[2], sums if x.shape[1] == 1 else None)
    return {"weight": weight, "bias": _plain(g.sum(1))}


def _conv2d(module: Any, x: Tensor, g: Tensor, examples: int) -> dict[str, Use]:
    if len(x) != examples or x.ndim != 4 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return {}
    # A convolution is a linear layer on patches: `unfold` makes a column of each, so g_b = G_b · columns_bᵀ per group.
    size: Any = module.kernel_size
    columns_each = x.shape[1] * math.prod(size) * math.prod(g.shape[2:])

    def gradients(first: int, last: int) -> Tensor:
        columns = nn.functional.unfold(x[first:last], size, module.dilation, module.padding, module.stride)
        columns = columns.unflatten(1, (module.groups, -1))
        out = g[first:last].flatten(2).unflatten(1, (module.groups, -1))
        gradient: Tensor = out @ columns.mT
        return gradient

    return {"weight": Use(gradients, module.weight.numel() + columns_each), "bias": _plain(g.flatten(2).sum(2))}


def _last(g: Tensor, hat: Tensor, shape: tuple[int, ...], examples: int) -> dict[str, Use]:
    rows = (examples, -1, *shape)
    return {"weight": _plain((g * hat).reshape(rows).sum(1)), "bias": _plain(g.reshape(rows).sum(1))}


def _layer_norm(module: nn.LayerNorm, x: Tensor, g: Tensor, examples: int) -> dict[str, Use]:
    shape: Any = module.normalized_shape
    return _last(g, nn.functional.layer_norm(x, shape, None, None, module.eps), shape, examples)


def _scale(module: nn.Module, x: Tensor, g: Tensor, examples: int) -> dict[str, Use]:
    """A layer whose one weight only scales: `f(x) = w∘x̂ + c`, so `x̂ = f(x; 1) − f(x; 0)`.

    The RMSNorms of language models are such layers, each with a class of its own; Gemma's scales by 1 + w.
    """
    weight = module._parameters.get("weight")
    if weight is None or len(list(module.parameters())) > 1 or x.shape != g.shape:
        return {}
    if weight.shape != g.shape[g.ndim - weight.ndim :]:
        return {}
    with contextlib.suppress(Exception), torch.no_grad():  # it needs more than its first input
        ones, zeros = (
            torch.func.functional_call(module, {"weight": torch.full_like(weight, value, dtype=x.dtype)}, (x,))
            for value in (1.0, 0.0)
        )
        return {"weight": _last(g, ones - zeros, tuple(weight.shape), examples)["weight"]}
    return {}


def _channels(g: Tensor, hat: Tensor, examples: int) -> dict[str, Use]:
    shape = tuple(g.shape[1:2])
    g, hat = (tensor.reshape(*tensor.shape[:2], -1).mT for tensor in (g, hat))
    return _last(g, hat, shape, examples)


def _group_norm(module: nn.GroupNorm, x: Tensor, g: Tensor, examples: int) -> dict[str, Use]:
    return _channels(g, nn.functional.group_norm(x, module.num_groups, None, None, module.eps), examples)


def _batch_norm(module: Any, x: Tensor, g: Tensor, examples: int) -> dict[str, Use]:
    if module.running_mean is None:  # the batch's own statistics: an example's gradient depends on its neighbours
        return {}
    mean, variance = module.running_mean.to(x.dtype), module.running_var.to(x.dtype)
    return _channels(g, nn.functional.batch_norm(x, mean, variance, None, None, False, 0.0, module.eps), examples)


def _embedding(module: nn.Embedding, x: Tensor, g: Tensor, examples: int) -> dict[str, Use]:
    if module.max_norm is not None or module.scale_grad_by_freq:
        return {}
    ids, g = x.reshape(examples, -1), _tokens(g, examples)
    if module.padding_idx is not None:
        g = g.masked_fill((ids == module.padding_idx)[..., None], 0.0)
    count, width = module.weight.shape
    # Row `id` of example b is numbered b·count + id: a token that an example has twice is summed before the power.
    places = ids + count * torch.arange(examples, device=ids.device)[:, None]

    def gradients(first: int, last: int) -> Tensor:
        flat = g.new_zeros((last - first) * count, width)
        flat.index_add_(0, places[first:last].flatten() - first * count, g[first:last].flatten(0, 1))
        return flat.view(last - first, count, width)

    def sums(power: int) -> Tensor:
        unique, where = places.unique(return_inverse=True)
        each = g.new_zeros(len(unique), width).index_add_(0, where.flatten(), g.flatten(0, 1))
        return g.new_zeros(count, width).index_add_(0, unique % count, powered(each, power))

    return {"weight": Use(gradients, count * width, sums)}


_RULES: dict[type[nn.Module], Callable[..., dict[str, Use]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
}
