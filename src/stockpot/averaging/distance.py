"""How far the weights are from the anchor: the whole distance, even if they are sharded over processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stockpot.averaging.average import pieces, working_type
from stockpot.averaging.lora_factors import squared_norms
from stockpot.averaging.match import TensorPair
from stockpot.weights.tensor_memory import is_sharded


@torch.no_grad()
def distance(pairs: Sequence[TensorPair]) -> float:
    """‖θ − θ_o‖₂ over the parameters of the pairs, in the unit of the weights; ‖ΔW‖ for factors of LoRA.

    If weights are sharded, every process has to call it and gets the same: one all-reduce per way of sharding.
    """
    whole = list(squared_norms(pair.factor for pair in pairs if pair.factor is not None))
    shards: dict[tuple[Any, tuple[int, ...]], list[float]] = {}
    for pair in pairs:
        if not pair.is_buffer and pair.factor is None:
            layout = _sharding(pair.tensor)
            squares = whole if layout is None else shards.setdefault(layout, [])
            squares += _squares(pair)
    sums = [_over_processes(math.fsum(squares), *layout) for layout, squares in shards.items()]
    return math.sqrt(math.fsum(whole + sums))


def _squares(pair: TensorPair) -> Iterator[float]:
    for part, origin in pieces(*pair.views):
        working = working_type(part.dtype)
        yield float(torch.linalg.vector_norm(part.to(working) - origin.to(part.device, working))) ** 2


def _sharding(tensor: Tensor) -> tuple[Any, tuple[int, ...]] | None:
    """A DTensor's mesh, and its dimensions along which processes hold different numbers rather than copies."""
    if not is_sharded(tensor):
        return None
    placed: Any = tensor
    return placed.device_mesh, tuple(
        dim for dim, placement in enumerate(placed.placements) if not placement.is_replicate()
    )


def _over_processes(square: float, mesh: Any, dims: tuple[int, ...]) -> float:
    total = torch.tensor(square, dtype=torch.float64, device=mesh.device_type)
    for dim in dims:
        torch.distributed.all_reduce(total, group=mesh.get_group(dim))
    return float(total)
