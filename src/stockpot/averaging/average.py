"""One average, θ ← (1−β)θ + βθ_o, in place, at the speed of the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stockpot.averaging.match import TensorPair
from stockpot.averaging.noise import Noise, TensorNoise
from stockpot.averaging.shares import KeptShares

_PIECE = 1 << 22  # elements: temporaries of the slow path stay within 16 MiB of fp32
_NOISY_PIECE = 1 << 18  # noise is made of 64-bit numbers, which is faster when they fit into the cache
_SHARED_PIECE = 1 << 17  # a β for each weight takes several passes over a piece, which should stay in the cache


@torch.no_grad()
def average(pairs: Sequence[TensorPair], noise: Noise | None = None) -> None:
    """θ ← θ + β(θ_o − θ) for every pair, in place, computed in fp32 (float64 in float64).

    β = 0 writes nothing and β = 1 copies the anchor. A pair with `shares` has a β for each weight:
    θ ← θ_o + κ(θ − θ_o), where κ = 1−β. bf16 is rounded to nearest, or without bias with `noise`. A factor of LoRA has
    θ_o = 0 and is scaled by 1−β. A buffer's element that equals its anchor is not touched, so that masks of −inf
    survive.
    """
    alike: dict[tuple[float, torch.dtype, torch.device, bool], tuple[list[Tensor], list[Tensor]]] = {}
    for pair in pairs:
        tensor, anchor = pair.views
        beta = pair.beta
        if beta == 0 or tensor.numel() == 0:
            continue
        if pair.shares is not None:
            _average_by_shares(pair, pair.shares, noise)
        elif pair.is_buffer:
            anchor = anchor.to(tensor.device)
            tensor.copy_(torch.where(tensor == anchor, tensor, _mean(tensor, anchor, beta)))
        elif tensor.dtype == anchor.dtype == working_type(tensor.dtype) and tensor.device == anchor.device:
            to_zero = pair.factor is not None
            tensors, anchors = alike.setdefault((beta, tensor.dtype, tensor.device, to_zero), ([], []))
            tensors.append(tensor)
            anchors.append(anchor)
        else:
            drawn = _noise_of(pair, noise)
            start = 0
            for part, origin in pieces(tensor, anchor, size=_PIECE if drawn is None else _NOISY_PIECE):
                start = _write(part, _mean(part, origin, beta), drawn, start)
    for (beta, _, _, to_zero), (tensors, anchors) in alike.items():
        if beta == 1:
            torch._foreach_copy_(tensors, anchors)
        elif to_zero:
            torch._foreach_mul_(tensors, 1 - beta)
        else:
            torch._foreach_lerp_(tensors, anchors, beta)


def _average_by_shares(pair: TensorPair, shares: KeptShares, noise: Noise | None) -> None:
    """θ ← θ_o + κ(θ − θ_o), κ for each weight; a LoRA factor, whose anchor is zero, is scaled row by row of ΔW."""
    tensor, anchor = pair.views
    if pair.factor is not None:
        kept = shares.all.to(tensor.dtype)
        tensor.mul_(kept if pair.factor.embedding else kept.view(-1, *[1] * (tensor.dim() - 1)))
        return
    drawn, start, working = _noise_of(pair, noise), 0, working_type(tensor.dtype)
    known = [shares.importance] if isinstance(shares.importance, Tensor) else []
    buffers: list[Tensor] = []
    for part, there, squares, *past in pieces(tensor, anchor, shares.squares, *known, size=_SHARED_PIECE):
        if not buffers:  # the first piece is the largest
            buffers = [torch.empty_like(squares, memory_format=torch.contiguous_format) for _ in range(2)]
        scratch = buffers[0][: len(squares)], buffers[1][: len(squares)]
        kept = shares.of(squares, past[0] if past else shares.importance, scratch).to(working)
        origin = there.to(part.device, working)
        # κ = 1 gives θ and κ = 0 gives θ_o, bit for bit: `lerp` starts from the end that is nearer.
        if part.dtype == working and drawn is None:
            torch.lerp(origin, part, kept, out=part)
        else:
            start = _write(part, torch.lerp(origin, part.to(working), kept), drawn, start)


def _noise_of(pair: TensorPair, noise: Noise | None) -> TensorNoise | None:
    return noise.of(pair.name, pair.tensor) if noise is not None and pair.tensor.dtype == torch.bfloat16 else None


def _write(part: Tensor, mean: Tensor, noise: TensorNoise | None, start: int) -> int:
    """Writes a mean into a piece that starts at element `start`, rounded to its type; returns where the next starts."""
    if noise is not None:
        mean = round_stochastically(mean, noise.bits(start, start + part.numel()).view(part.shape))
    part.copy_(mean)
    return start + part.numel()


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


def pieces(tensor: Tensor, *others: Tensor, size: int = _PIECE) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of equal shape in pieces, in the order of the first one's elements, so that temporaries are small."""
    tensors = (tensor, *others)
    if tensor.is_contiguous():
        tensors = (tensor.view(-1), *(other.reshape(-1) for other in others))
    rows = max(1, size * len(tensors[0]) // max(1, tensor.numel()))
    yield from zip(*(each.split(rows) for each in tensors), strict=True)
