"""Noise for stochastic rounding that is equal in all processes: it depends on seed, step, tensor and element alone."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from stockpot.weights.tensor_memory import is_sharded, local_shard

# SplitMix64 (Steele, Lea and Flood 2014), as signed 64-bit numbers: torch multiplies int64 modulo 2**64.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


@dataclass(frozen=True)
class Noise:
    """The noise of one average, the `averages`-th, after optimizer step `step`."""

    seed: int
    step: int
    averages: int

    def of(self, name: str, tensor: Tensor) -> TensorNoise:
        """The noise of one tensor; for a shard, that of its elements in the whole tensor."""
        text = f"{self.seed}/{self.step}/{self.averages}/{name}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
        piece, offsets = tuple(local_shard(tensor).shape), shard_offsets(tensor)
        return TensorNoise(key, tuple(tensor.shape), piece, offsets, tensor.device)


@dataclass(frozen=True)
class TensorNoise:
    """16 bits for each element: element i of the whole tensor has lane i mod 4 of SplitMix64's output i // 4."""

    key: int
    whole: tuple[int, ...]
    piece: tuple[int, ...]
    offsets: tuple[int, ...]
    device: torch.device

    def bits(self, start: int, stop: int) -> Tensor:
        """`(stop - start,)` int32 in [0, 2**16) for these elements of the piece, counted row by row."""
        first = self._first
        if first is None:
            elements = self._elements(start, stop)
            outputs = splitmix64(self.key, elements >> 2)
            return (outputs.bitwise_right_shift_((elements & 3) << 4) & 0xFFFF).to(torch.int32)
        start, stop = start + first, stop + first
        outputs = splitmix64(self.key, torch.arange(start >> 2, (stop + 3) >> 2, device=self.device))
        return outputs.view(torch.int16)[start & 3 :][: stop - start].to(torch.int32) & 0xFFFF

    @property
    def _strides(self) -> tuple[int, ...]:
        return tuple(accumulate(self.whole[:0:-1], lambda a, b: a * b, initial=1))[::-1]

    @property
    def _first(self) -> int | None:
        """Where the piece starts in the whole tensor, if its elements are contiguous there."""
        cut = [dim for dim, size in enumerate(self.piece) if size != self.whole[dim]]
        if cut and math.prod(self.piece[: cut[-1]]) != 1:
            return None
        return sum(offset * stride for offset, stride in zip(self.offsets, self._strides, strict=True))

    def _elements(self, start: int, stop: int) -> Tensor:
        rest = torch.arange(start, stop, device=self.device)
        index = torch.zeros_like(rest)
        for size, offset, stride in zip(self.piece[::-1], self.offsets[::-1], self._strides[::-1], strict=True):
            index += (rest % size + offset) * stride
            rest //= size
        return index


def drawn_seed(generator: torch.Generator) -> int:
    """A seed drawn from the generator, which advances it by one number."""
    return int(torch.randint(1 << 62, (), generator=generator, device=generator.device))


def splitmix64(key: int, positions: Tensor) -> Tensor:
    """Outputs of SplitMix64 seeded with `key`, by position from 0; int64 of the shape of `positions`."""
    z = (positions + 1).mul_(_GAMMA).add_(key)
    shifted = torch.empty_like(z)
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1]), (31, 1)):
        torch.bitwise_right_shift(z, shift, out=shifted)
        z.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1))  # the shift is arithmetic
        if factor != 1:
            z.mul_(factor)
    return z


def shard_offsets(tensor: Tensor) -> tuple[int, ...]:
    """Where this process's shard starts in each dimension; zeros for a tensor that is not sharded."""
    if not is_sharded(tensor):
        return (0,) * tensor.dim()
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    assert isinstance(tensor, DTensor)
    return tuple(compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)[1])
