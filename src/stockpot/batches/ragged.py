"""Sequences of different lengths, one behind the other in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def padded_places(ends: Tensor, picked: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the tokens of the picked sequences lie, padded to the longest.

    Args:
        ends: where each sequence ends, (N,) int64.
        picked: the numbers of B sequences.
        total: of tokens.

    Returns:
        The places (B, L) in the one tensor; of bool (B, L), which of them are not padding; and the lengths (B,).
    """
    stops = ends[picked]
    starts = torch.where(picked > 0, ends[picked - 1], 0)
    lengths = stops - starts
    within = torch.arange(int(lengths.max()))
    return (starts[:, None] + within).clamp(max=total - 1), within < lengths[:, None], lengths


def places_of(ends: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tokens of these sequences lie, one behind the other, and where each sequence then ends."""
    starts = torch.where(chosen > 0, ends[chosen - 1], 0)
    lengths = ends[chosen] - starts
    within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return starts.repeat_interleave(lengths) + within, lengths.cumsum(0)


def joined_ends(ends: list[Tensor], totals: list[int]) -> Tensor:
    """Where each sequence ends when several such tensors, of these numbers of tokens, lie one behind the other."""
    before = [0, *torch.tensor(totals).cumsum(0).tolist()]
    return torch.cat([part + offset for part, offset in zip(ends, before, strict=False)])
