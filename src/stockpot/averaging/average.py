"""One average, θ ← (1−β)θ + βθ_o, in place, at the speed of the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stockpot.averaging.match import Pair

_PIECE = 1 << 22  # elements: temporaries of the slow path stay within 16 MiB of fp32


@torch.no_grad()
def average(pairs: Sequence[Pair], *, stochastic: bool = False, generator: torch.Generator | None = None) -> None:
    """θ ← θ + β(θ_o − θ) for every pair, in place, computed in fp32 (float64 in float64).

    β = 0 writes nothing and β = 1 copies the anchor. bf16 is rounded to nearest, or without bias where `stochastic`.
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
            for part, origin in pieces(tensor, anchor):
                mean = _mean(part, origin, beta)
                if stochastic and part.dtype == torch.bfloat16 and mean.dtype == torch.float32:
                    mean = round_stochastically(mean, generator)
                part.copy_(mean)
    for (beta, _, _, to_zero), (tensors, anchors) in alike.items():
        if beta == 1:
            torch._foreach_copy_(tensors, anchors)
        elif to_zero:
            torch._foreach_mul_(tensors, 1 - beta)
        else:
            torch._foreach_lerp_(tensors, anchors, beta)


def round_stochastically(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """fp32 → bf16, up or down at random such that the expectation is the fp32 value; finite values only are drawn.

    Adds uniform noise below the last bit that bf16 keeps, then truncates. Values that bf16 holds stay as they are.
    """
    device = values.device if generator is None else generator.device
    noise = torch.randint(1 << 16, values.shape, dtype=torch.int32, device=device, generator=generator)
    bits = values.contiguous().view(torch.int32) + noise.to(values.device)
    rounded = (bits & -(1 << 16)).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def working_type(dtype: torch.dtype) -> torch.dtype:
    """What an average of such weights is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _mean(tensor: Tensor, anchor: Tensor, beta: float) -> Tensor:
    working = working_type(tensor.dtype)
    anchor = anchor.to(tensor.device, working)
    return anchor if beta == 1 else tensor.to(working).lerp(anchor, beta)


def pieces(tensor: Tensor, anchor: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same numbers in pieces small enough that a converted copy of one costs nothing."""
    if tensor.is_contiguous():
        flat = torch.split(tensor.view(-1), _PIECE), torch.split(anchor.reshape(-1), _PIECE)
        yield from zip(*flat, strict=True)
    else:
        yield tensor, anchor
