"""Several texts in one sequence, so that batches hold little padding.

Attention must not reach from one text into another. There is no mask for that: positions restart at every text, and
Transformers' attention takes a position that does not follow the one before it as the start of another text.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import replace

import torch

from stockpot.batches.token_examples import TokenExamples


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Blocks of indices whose lengths sum to at most `capacity`: best fit, the longest first.

    Each goes into the fullest block that has room (Johnson 1974, https://doi.org/10.1137/0203025: at most 11/9 of the
    fewest possible blocks, plus 4). The same lengths give the same blocks, in the order of their first index.
    """
    blocks: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free tokens, block), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(rooms, (lengths[index], -1))
        free, block = rooms.pop(place) if place < len(rooms) else (capacity, len(blocks))
        if block == len(blocks):
            blocks.append([])
        blocks[block].append(index)
        insort(rooms, (free - lengths[index], block))
    return sorted(sorted(block) for block in blocks)


def packed(examples: TokenExamples, capacity: int) -> TokenExamples:
    """The sequences in blocks of at most `capacity` tokens; `positions` restart at every sequence."""
    assert examples.rows is None, "only text to be continued is packed"
    blocks = best_fit(examples.lengths.tolist(), capacity)
    sequences = examples.picked([index for block in blocks for index in block])
    last = torch.tensor([len(block) for block in blocks]).cumsum(0) - 1
    return replace(sequences, ends=sequences.ends[last], positions=sequences.counted_positions())
