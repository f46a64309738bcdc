"""Random masks that depend only on seed, model and tensor: the same in any order and with any number of threads."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LEVELS = 1 << 16


def mask_key(seed: int, model: int, name: str) -> int:
    """The 128-bit key of the random masks of one model's tensor."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{model}/{name}".encode(), digest_size=16).digest(), "little")


def chance(density: float) -> float:
    """The density rounded to 1/65536, and at least that."""
    return max(1, round(density * _LEVELS)) / _LEVELS


def keep(key: int, start: int, like: Tensor, density: float | Tensor) -> Tensor:
    """A mask of zeros and ones for the elements from `start` on: one with probability `density`, a number or a tensor.

    Elements are independent, and the element at index i has the same value whatever range is asked for.
    """
    import numpy as np
    import torch

    if isinstance(density, float | int):
        level: float | Tensor = round(chance(density) * _LEVELS)
        coarse = level % 256 == 0  # a multiple of 1/256, such as a half or a quarter, needs only half the random bits
    else:
        level, coarse = density * _LEVELS, False
    # Philox is counter-based: one step of its counter yields four words of 64 bits, lanes of 16 bits, or of 8.
    lanes, kind = (32, np.int8) if coarse else (16, np.int16)
    count, skip = like.numel(), start % lanes
    words = -(-(skip + count) // lanes) * 4
    drawn = np.random.Philox(key=key, counter=start // lanes).random_raw(words).view(kind)[skip : skip + count]
    # As signed integers the lanes are uniform from −32768, or −128, on. Comparing is fastest in floats.
    mask = torch.empty_like(like).copy_(torch.from_numpy(drawn))
    return torch.lt(mask, level / 256 - 128 if coarse else level - _LEVELS // 2, out=mask)
