"""Names of tensors, folded by layer: `layers.{0…31}.mlp.weight`."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from itertools import groupby
from typing import TypeVar

_NUMBER = re.compile(r"[0-9]{1,9}")
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


def grouped(pairs: Iterable[tuple[_K, _V]]) -> dict[_K, list[_V]]:
    """The values of every key, in the order in which they come."""
    groups: dict[_K, list[_V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def fold_names(
    names: Iterable[str], key: Callable[[str], Hashable] = lambda name: None, every: bool = False
) -> list[tuple[str, list[str]]]:
    """Names that differ in numbers alone and agree in `key`, under one pattern; with `every` each on its own.

    >>> fold_names(["layers.0.weight", "layers.1.weight", "head.weight"])
    [('layers.{0…1}.weight', ['layers.0.weight', 'layers.1.weight']), ('head.weight', ['head.weight'])]
    """

    def kind(name: str) -> Hashable:
        return name if every else (key(name), *(None if _NUMBER.fullmatch(part) else part for part in name.split(".")))

    folded = []
    for group in grouped((kind(name), name) for name in names).values():
        columns = [dict.fromkeys(column) for column in zip(*(name.split(".") for name in group), strict=True)]
        pattern = ".".join(_ranges(map(int, column)) if len(column) > 1 else next(iter(column)) for column in columns)
        folded.append((pattern, group))
    return folded


def _ranges(numbers: Iterable[int]) -> str:
    """`{0…3,7}` for 0, 1, 2, 3 and 7; of more than four ranges the middle ones are left out."""
    texts = []
    for _, pairs in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):  # equal in a range
        values = [number for _, number in pairs]
        texts.append(f"{values[0]}…{values[-1]}" if len(values) > 1 else f"{values[0]}")
    return "{" + ",".join(texts if len(texts) <= 4 else [*texts[:2], "…", texts[-1]]) + "}"
