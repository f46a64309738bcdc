"""Sums over all of a weight's numbers where processes hold shards of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from stockpot.weights.tensor_memory import is_sharded


def total_over_processes(values: Iterable[tuple[Tensor, tuple[float, ...]]]) -> tuple[float, ...]:
    """The sums of what was computed from each tensor's local numbers, over all tensors and processes.

    If tensors are sharded, every process has to call it and gets the same: one all-reduce per way of sharding.

    Args:
        values: each tensor with what this process computed from its piece, the same number of values for each.

    Returns:
        As many sums; empty without tensors.
    """
    layouts: dict[tuple[Any, tuple[int, ...]] | None, list[tuple[float, ...]]] = {}
    for tensor, computed in values:
        layouts.setdefault(_sharding(tensor), []).append(computed)
    sums = [
        _all_reduced([math.fsum(column) for column in zip(*rows, strict=True)], layout)
        for layout, rows in layouts.items()
    ]
    return tuple(math.fsum(column) for column in zip(*sums, strict=True))


def _sharding(tensor: Tensor) -> tuple[Any, tuple[int, ...]] | None:
    """A DTensor's mesh, and its dimensions along which processes hold different numbers rather than copies."""
    if not is_sharded(tensor):
        return None
    placed: Any = tensor
    return placed.device_mesh, tuple(
        dim for dim, placement in enumerate(placed.placements) if not placement.is_replicate()
    )


def _all_reduced(sums: list[float], layout: tuple[Any, tuple[int, ...]] | None) -> list[float]:
    if layout is None:
        return sums
    mesh, dims = layout
    total = torch.tensor(sums, dtype=torch.float64, device=mesh.device_type)
    for dim in dims:
        torch.distributed.all_reduce(total, group=mesh.get_group(dim))
    reduced: list[float] = total.tolist()
    return reduced
