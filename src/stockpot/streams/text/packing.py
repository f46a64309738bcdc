"""Several sequences in one, so that batches hold little padding: attention keeps them apart by their positions."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import replace

import torch

from stockpot.batches.token_examples import TokenExamples


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Blocks of indices whose lengths sum to at most `capacity`: best fit, the longest first.

    Each goes into the fullest block that has room (Johnson 1974, https://doi.org/10.1137/0203025: at most 11/9 of the
    fewest blocks, and 4). The same lengths give the same blocks, in the order of their first index.
    """
    blocks: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (what is free, which block), sorted
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
    assert examples.rows is None, "a classified sequence is not packed"
    lengths = examples.ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
    blocks = best_fit(lengths.tolist(), capacity)
    sequences = examples.picked([index for block in blocks for index in block])
    starts = sequences.ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
    positions = torch.arange(len(sequences.tokens)) - (sequences.ends - starts).repeat_interleave(starts)
    last = torch.tensor([len(block) for block in blocks]).cumsum(0) - 1
    return replace(sequences, ends=sequences.ends[last], positions=positions.int())
