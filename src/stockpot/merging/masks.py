"""Random masks that hang on seed, model and tensor alone: the same in any order, with any number of threads."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Philox is counter-based: one step of its counter yields four words of 64 bits, sixteen lanes of 16 bits.
_LANES = 16
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

    count, skip = like.numel(), start % _LANES
    words = -(-(skip + count) // _LANES) * 4
    lanes = np.random.Philox(key=key, counter=start // _LANES).random_raw(words).view(np.int16)[skip : skip + count]
    # As signed numbers lanes are uniform from −32768 on; in floats, comparing is fastest.
    drawn = torch.empty_like(like).copy_(torch.from_numpy(lanes))
    level = density * _LEVELS if not isinstance(density, float | int) else round(chance(density) * _LEVELS)
    return torch.lt(drawn, level - _LEVELS // 2, out=drawn)
