"""Tensors that a checkpoint stores more than once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from stockpot.inspect.name_patterns import group_names
from stockpot.merging.read.sources import TensorSource, read_pieces

if TYPE_CHECKING:
    from torch import Tensor


class TiedTensors(NamedTuple):
    """Names that hold the same tensor, in groups; and, apart, the equal tensors that hold one value throughout.

    Fresh norms and biases are equal because all their elements are: that says nothing about ties.
    """

    groups: list[list[str]]
    constant: list[str]


def find_tied_tensors(source: TensorSource) -> TiedTensors:
    """Finds tensors of equal type, shape and bytes.

    Their first pieces tell nearly all tensors apart; of the others all bytes are read, and compared by SHA-256.
    """
    import torch
    from tqdm import tqdm

    def pieces(name: str) -> Iterator[Tensor]:
        """Bytes, in a row for every element."""
        for piece in read_pieces(source, name, source.tensors[name].dtype):
            yield piece.view(torch.uint8).view(len(piece), -1)

    def kind(name: str) -> Hashable:
        return source.tensors[name].dtype, source.tensors[name].shape

    def digest(name: str, most: int | None = None) -> bytes:
        sha = hashlib.sha256()
        for piece in islice(pieces(name), most):
            sha.update(piece.numpy().data)
        return sha.digest()

    def is_constant(name: str) -> bool:
        element = next(pieces(name))[0]
        return all(bool((piece == element).all()) for piece in pieces(name))

    filled = [name for name, info in source.tensors.items() if info.numel]
    keys: tuple[Callable[[str], Hashable], ...] = (kind, lambda name: digest(name, 1), digest)
    groups = [filled]
    for key in keys:
        bar = tqdm(groups, delay=1, disable=None, leave=False)
        groups = [same for group in bar for same in group_names(group, key) if len(same) > 1]
    constant = {name for group in groups if is_constant(group[0]) for name in group}
    return TiedTensors(
        [group for group in groups if group[0] not in constant], [name for name in filled if name in constant]
    )
