"""How far the weights are from the anchor: the whole distance, even if they are sharded over processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from stockpot.averaging.average import pieces, working_type
from stockpot.averaging.lora_factors import squared_norms
from stockpot.averaging.match import TensorPair
from stockpot.averaging.over_processes import total_over_processes


@torch.no_grad()
def distance(pairs: Sequence[TensorPair]) -> float:
    """‖θ − θ_o‖₂ over the parameters of the pairs, in the unit of the weights; ‖ΔW‖ for factors of LoRA.

    If weights are sharded, every process has to call it and gets the same: one all-reduce per way of sharding.
    """
    factors = list(squared_norms(pair.factor for pair in pairs if pair.factor is not None))
    plain = [pair for pair in pairs if not pair.is_buffer and pair.factor is None]
    return math.sqrt(math.fsum([*factors, *total_over_processes((pair.tensor, (_squared(pair),)) for pair in plain)]))


def _squared(pair: TensorPair) -> float:
    squares = []
    for part, origin in pieces(*pair.views):
        working = working_type(part.dtype)
        squares.append(float(torch.linalg.vector_norm(part.to(working) - origin.to(part.device, working))) ** 2)
    return math.fsum(squares)
