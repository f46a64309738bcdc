"""Tensors that a checkpoint stores more than once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from typing import NamedTuple

from stockpot.inspect.name_patterns import grouped
from stockpot.merging.read.sources import TensorSource, read_pieces


class TiedTensors(NamedTuple):
    """Names that hold the same tensor, in groups; and, apart, the equal tensors that hold one value throughout.

    Fresh norms and biases are equal because all their elements are: that says nothing about ties.
    """

    ties: list[list[str]]
    constant: list[str]


def find_tied_tensors(source: TensorSource) -> TiedTensors:
    """Finds tensors of equal type, shape and bytes.

    Their first pieces tell nearly all tensors apart; of the others all bytes are read, and compared by SHA-256.
    """
    import torch
    from tqdm import tqdm

    tensors = source.tensors

    def pieces(name: str) -> Iterator[bytes]:
        for piece in read_pieces(source, name, tensors[name].dtype):
            yield piece.view(torch.uint8).numpy().tobytes()

    def kind(name: str) -> Hashable:
        return tensors[name].dtype, tensors[name].shape

    def start(name: str) -> Hashable:
        return hashlib.sha256(next(pieces(name))).digest()

    def whole(name: str) -> Hashable:
        sha = hashlib.sha256()
        for piece in pieces(name):
            sha.update(piece)
        return sha.digest()

    def is_constant(name: str) -> bool:
        element = next(pieces(name))[: tensors[name].nbytes // tensors[name].numel]
        return all(piece == element * (len(piece) // len(element)) for piece in pieces(name))

    filled = [name for name, info in tensors.items() if info.numel]
    groups = [filled]
    for key in (kind, start, whole):
        bar = tqdm(groups, delay=1, disable=None, leave=False)
        split = [same for group in bar for same in grouped((key(name), name) for name in group).values()]
        groups = [same for same in split if len(same) > 1]
    constant = {name for group in groups if is_constant(group[0]) for name in group}
    ties = [group for group in groups if group[0] not in constant]
    return TiedTensors(ties, [name for name in filled if name in constant])
