"""Where a tensor's numbers are in memory: shards, tied weights, and tensors that have no memory of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which each process holds a piece."""
    return hasattr(tensor, "to_local") and hasattr(tensor, "placements")


def local_shard(tensor: Tensor) -> Tensor:
    """The piece of the tensor that this process holds; the tensor itself unless it is sharded."""
    if is_sharded(tensor):
        piece: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        return piece
    return tensor


def is_plain_float(tensor: Tensor) -> bool:
    """Whether it holds fp16 to fp64 numbers directly: neither integers nor quantised, whatever dtype it reports."""
    quantised = hasattr(tensor, "__tensor_flatten__") and not is_sharded(tensor)
    return not quantised and tensor.is_floating_point() and tensor.dtype.itemsize >= 2


def storage_address(tensor: Tensor) -> int | None:
    """The address of the storage under this process's piece of the tensor; None where it has no storage.

    Meta, fake and sparse tensors have none, nor has a subclass that wraps other tensors (torchao's).
    """
    try:
        storage = local_shard(tensor).untyped_storage()
        return None if storage.device.type == "meta" else storage.data_ptr() or None
    except RuntimeError:  # includes NotImplementedError
        return None


def memory_key(tensor: Tensor) -> object:
    """Equal for two tensors that are the same numbers in the same memory."""
    piece, start = local_shard(tensor), storage_address(tensor)
    if piece.numel() == 0 or start is None:
        return id(tensor)
    return piece.device, start + piece.storage_offset() * piece.element_size(), piece.shape, piece.stride()


def view_key(tensor: Tensor) -> object:
    """Like `memory_key`, and equal for a transposed view too: PEFT ties the adapters of an embedding and a head so."""
    piece, start = local_shard(tensor), storage_address(tensor)
    if piece.numel() == 0 or start is None:
        return id(tensor)
    return piece.device, start + piece.storage_offset() * piece.element_size(), piece.numel()


def group_tied(
    named: Iterable[tuple[str, Tensor]], key: Callable[[Tensor], object] = memory_key
) -> list[tuple[list[str], Tensor]]:
    """Each tensor once, with all of its names, in the order in which they come: tied weights have several names."""
    groups: dict[object, tuple[list[str], Tensor]] = {}
    for name, tensor in named:
        groups.setdefault(key(tensor), ([], tensor))[0].append(name)
    return list(groups.values())
