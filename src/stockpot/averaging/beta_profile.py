"""What beta="auto" chose, in numbers for people: β of each tensor, and how much of the task's way was kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stockpot.averaging.average import pieces, working_type
from stockpot.averaging.match import TensorPair
from stockpot.averaging.over_processes import total_over_processes

BINS = 10  # of β, equal, from 0 to 1


@dataclass(frozen=True)
class BetaCounts:
    """β of one tensor's weights: how many there are, their mean β, and how many have β in each tenth of [0, 1]."""

    tensor: str
    weights: int
    mean: float
    counts: list[int]


@dataclass(frozen=True)
class BetaProfile:
    """β at one average.

    Attributes:
        kept: ‖κ(θ−θ_o)‖ / ‖θ−θ_o‖ over all weights with a β of their own: how far from the anchor the average left
            them, of how far training had taken them; None where nothing had moved.
        tensors: β by tensor, in the model's order.
    """

    kept: float | None
    tensors: list[BetaCounts]


@torch.no_grad()
def beta_profile(pairs: Sequence[TensorPair]) -> BetaProfile | None:
    """β of the pairs that have `shares`, right after the average that they say; None if there are none.

    Where weights are sharded, every process has to call it and gets the same.
    """
    weighed = [pair for pair in pairs if pair.shares is not None]
    if not weighed:
        return None
    tensors, lengths = [], []
    for pair in weighed:
        squared_now, squared_before, mean, counts = _measured(pair)
        lengths.append((pair.tensor, (squared_now, squared_before)))
        total, *whole = total_over_processes([(pair.tensor, (mean, *map(float, counts)))])
        many = int(sum(whole))
        tensors.append(BetaCounts(pair.name, many, total / many if many else 0.0, [int(count) for count in whole]))
    now, before = total_over_processes(lengths)
    return BetaProfile(math.sqrt(now / before) if before else None, tensors)


def _measured(pair: TensorPair) -> tuple[float, float, float, list[int]]:
    """‖κΔ‖², ‖Δ‖², Σβ and the counts of β by bin, of this process's piece of the tensor."""
    shares = pair.shares
    assert shares is not None
    if pair.factor is not None:  # one κ for each row of ΔW
        kept = shares.all.cpu().double()
        left, right = (side.cpu().double() for side in pair.factor.rows)
        squares = ((left @ (right @ right.T)) * left).sum(1) * pair.factor.scaling**2  # of the rows of ΔW
        each = right.shape[1]
        return (
            float(squares.sum()),
            float((squares / kept.square().clamp(min=1e-300)).sum()),
            float((1 - kept).sum()) * each,
            [count * each for count in _counts(1 - kept)],
        )
    tensor, anchor = pair.views
    working = working_type(tensor.dtype)
    known = [shares.importance] if isinstance(shares.importance, Tensor) else []
    now = before = mean = 0.0
    counts = [0] * BINS
    for part, origin, squares, *past in pieces(tensor, anchor, shares.squares, *known):
        kept = shares.of(squares, past[0] if past else shares.importance)
        change = part.to(working) - origin.to(part.device, working)
        now += float(change.double().square().sum())
        before += float((change.double() / kept.double().clamp(min=1e-150)).square().sum())
        mean += float((1 - kept).double().sum())
        counts = [sum(both) for both in zip(counts, _counts(1 - kept), strict=True)]
    return now, before, mean, counts


def _counts(betas: Tensor) -> list[int]:
    bins = (betas.flatten() * BINS).long().clamp_(0, BINS - 1)
    return torch.bincount(bins, minlength=BINS).tolist()
