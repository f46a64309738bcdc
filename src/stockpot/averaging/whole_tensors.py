"""Between whole tensors, as they are on disk, and the pieces that processes hold of sharded weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stockpot.averaging.noise import shard_offsets
from stockpot.weights.tensor_memory import is_sharded, local_shard


def piece_like(values: Tensor, tensor: Tensor) -> Tensor:
    """The piece of whole values that belongs to this process's piece of a tensor of the same shape."""
    if not is_sharded(tensor):
        return values
    sizes = local_shard(tensor).shape
    for dimension, (offset, size) in enumerate(zip(shard_offsets(tensor), sizes, strict=True)):
        values = values.narrow(dimension, min(offset, values.shape[dimension] - size), size)
    return values


def whole(piece: Tensor, tensor: Tensor) -> Tensor:
    """The whole values of which every process holds a piece, laid out as the tensor is; all processes call it."""
    if not is_sharded(tensor):
        return piece
    from torch.distributed.tensor import DTensor

    placed: Any = tensor
    values = DTensor.from_local(
        piece, placed.device_mesh, placed.placements, shape=tensor.shape, stride=tensor.stride(), run_check=False
    )
    full: Tensor = values.full_tensor()
    return full
