"""Tensors that a checkpoint stores more than once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from stockpot.inspect.name_patterns import group_names
from stockpot.merging.read.sources import TensorSource, torch_dtype
from stockpot.merging.threads import PIECE

if TYPE_CHECKING:
    from torch import Tensor


class TiedTensors(NamedTuple):
    """Names that hold the same tensor, in groups; and, apart, the equal tensors that hold one value throughout.

    Fresh norms and biases are equal because all their elements are: that says nothing about ties.
    """

    groups: list[list[str]]
    constant: list[str]


def find_tied_tensors(source: TensorSource, on_bytes: Callable[[int], object] = lambda count: None) -> TiedTensors:
    """Finds tensors of equal type, shape and bytes; calls `on_bytes` with the number of bytes that were hashed.

    A few elements tell nearly all tensors apart; of the others all bytes are read, and compared by SHA-256.
    """
    import torch

    def read(name: str, start: int, count: int) -> Tensor:
        info = source.tensors[name]
        flat = torch.empty(min(count, info.numel - start), dtype=torch_dtype(info.dtype))
        source.read(name, start, flat)
        return flat.view(torch.uint8).view(len(flat), -1)

    def sample(name: str) -> bytes:
        count = source.tensors[name].numel
        return b"".join(read(name, start, 16).numpy().tobytes() for start in (0, count // 3, count // 2))

    def digest(name: str) -> tuple[bytes, bool]:
        sha, constant, first = hashlib.sha256(), True, read(name, 0, 1)
        for start in range(0, source.tensors[name].numel, PIECE):
            piece = read(name, start, PIECE)
            sha.update(piece.view(-1).numpy().data)
            constant = constant and bool((piece == first).all())
            on_bytes(piece.numel())
        return sha.digest(), constant

    filled = [name for name, info in source.tensors.items() if info.numel]
    digests: dict[str, tuple[bytes, bool]] = {}
    groups: list[list[str]] = []
    for same_shape in _alike(filled, lambda name: (source.tensors[name].dtype, source.tensors[name].shape)):
        for candidates in _alike(same_shape, sample):
            digests |= {name: digest(name) for name in candidates}
            groups += _alike(candidates, digests.__getitem__)
    constant = {name for group in groups for name in group if digests[name][1]}
    return TiedTensors(
        [group for group in groups if group[0] not in constant], [name for name in filled if name in constant]
    )


def _alike(names: Iterable[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    return [group for group in group_names(names, key) if len(group) > 1]
