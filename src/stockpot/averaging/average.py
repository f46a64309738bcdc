"""One average, θ ← (1−β)θ + βθ_o, in place, at the speed of the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stockpot.averaging.match import TensorPair
from stockpot.averaging.noise import Noise

_PIECE = 1 << 22  # elements: temporaries of the slow path stay within 16 MiB of fp32
_NOISY_PIECE = 1 << 18  # noise is made of 64-bit numbers, which is faster when they fit into the cache


@torch.no_grad()
def average(pairs: Sequence[TensorPair], noise: Noise | None = None) -> None:
    """θ ← θ + β(θ_o − θ) for every pair, in place, computed in fp32 (float64 in float64).

    β = 0 writes nothing and β = 1 copies the anchor. bf16 is rounded to nearest, or without bias with `noise`.
    A factor of LoRA has θ_o = 0 and is scaled by 1−β. A buffer's element that equals its anchor is not touched, so
    that masks of −inf survive.
    """
    alike: dict[tuple[float, torch.dtype, torch.device, bool], tuple[list[Tensor], list[Tensor]]] = {}
    for pair in pairs:
        tensor, anchor = pair.views
        beta = pair.beta
        if beta == 0 or tensor.numel() == 0:
            continue
        if pair.is_buffer:
            anchor = anchor.to(tensor.device)
            tensor.copy_(torch.where(tensor == anchor, tensor, _mean(tensor, anchor, beta)))
        elif tensor.dtype == anchor.dtype == working_type(tensor.dtype) and tensor.device == anchor.device:
            to_zero = pair.factor is not None
            tensors, anchors = alike.setdefault((beta, tensor.dtype, tensor.device, to_zero), ([], []))
            tensors.append(tensor)
            anchors.append(anchor)
        else:
            drawn = noise.of(pair.name, pair.tensor) if noise is not None and tensor.dtype == torch.bfloat16 else None
            start = 0
            for part, origin in pieces(tensor, anchor, _PIECE if drawn is None else _NOISY_PIECE):
                mean = _mean(part, origin, beta)
                if drawn is not None:
                    bits = drawn.bits(start, start + part.numel())
                    mean = round_stochastically(mean, bits.view(part.shape))
                part.copy_(mean)
                start += part.numel()
    for (beta, _, _, to_zero), (tensors, anchors) in alike.items():
        if beta == 1:
            torch._foreach_copy_(tensors, anchors)
        elif to_zero:
            torch._foreach_mul_(tensors, 1 - beta)
        else:
            torch._foreach_lerp_(tensors, anchors, beta)


def round_stochastically(values: Tensor, noise: Tensor) -> Tensor:
    """fp32 → bf16, up or down such that over `noise` the expectation is the fp32 value; infinities and NaN stay.

    `noise`, int32 in [0, 2**16) and of the same shape, is added below the last bit that bf16 keeps; the rest is cut
    off. Values that bf16 holds stay as they are.
    """
    bits = values.contiguous().view(torch.int32) + noise
    rounded = (bits & -(1 << 16)).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def working_type(dtype: torch.dtype) -> torch.dtype:
    """The dtype that an average of such weights is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _mean(tensor: Tensor, anchor: Tensor, beta: float) -> Tensor:
    working = working_type(tensor.dtype)
    anchor = anchor.to(tensor.device, working)
    return anchor if beta == 1 else tensor.to(working).lerp(anchor, beta)


def pieces(tensor: Tensor, anchor: Tensor, size: int = _PIECE) -> Iterator[tuple[Tensor, Tensor]]:
    """Both tensors in pieces, in the order of their elements, so that a converted copy of a piece is small."""
    if tensor.is_contiguous():
        tensor, anchor = tensor.view(-1), anchor.reshape(-1)
    rows = max(1, size * len(tensor) // max(1, tensor.numel()))
    yield from zip(tensor.split(rows), anchor.split(rows), strict=True)
