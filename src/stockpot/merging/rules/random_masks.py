"""Random masks that hang on seed, model and tensor alone: the same in any order, with any number of threads."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LEVELS = 1 << 16


def mask_key(seed: int, model: int, name: str) -> int:
    """The 128-bit key of the masks that one model's tensor draws."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{model}/{name}".encode(), digest_size=16).digest(), "little")


def chance(density: float) -> float:
    """The density to the nearest 1/65536, at least one of them."""
    return max(1, round(density * _LEVELS)) / _LEVELS


def keep(key: int, start: int, like: Tensor, density: float | Tensor) -> Tensor:
    """A mask of ones and zeros for the elements from `start` on: ones with the chance `density`, one for all or each.

    Elements are independent, and the element at index i has the same value in whatever range it is asked for.
    """
    import numpy as np
    import torch

    if isinstance(density, float | int):
        level: float | Tensor = round(chance(density) * _LEVELS)
        coarse = level % 256 == 0  # a half, a quarter: half of the random bits will do
    else:
        level, coarse = density * _LEVELS, False
    # Philox is counter-based: one step of its counter yields four words of 64 bits, lanes of 16 bits, or of 8.
    lanes, kind = (32, np.int8) if coarse else (16, np.int16)
    count, skip = like.numel(), start % lanes
    words = -(-(skip + count) // lanes) * 4
    drawn = np.random.Philox(key=key, counter=start // lanes).random_raw(words).view(kind)[skip : skip + count]
    # As signed numbers lanes are uniform from −32768, or −128, on; in floats, comparing is fastest.
    mask = torch.empty_like(like).copy_(torch.from_numpy(drawn))
    return torch.lt(mask, level / 256 - 128 if coarse else level - _LEVELS // 2, out=mask)
