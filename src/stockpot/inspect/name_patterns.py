"""Names of tensors, folded by layer: `layers.{0…31}.mlp.weight`."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence

_NUMBER = re.compile(r"[0-9]{1,9}")


def fold_names(names: Iterable[str], key: Callable[[str], Hashable] = lambda name: None) -> list[tuple[str, list[str]]]:
    """Names that differ in numbers alone and agree in `key`, under one pattern, in the order of their first.

    >>> fold_names(["layers.0.weight", "layers.1.weight", "head.weight"])
    [('layers.{0…1}.weight', ['layers.0.weight', 'layers.1.weight']), ('head.weight', ['head.weight'])]
    """

    def parts(name: str) -> Hashable:
        return tuple(None if _NUMBER.fullmatch(part) else part for part in name.split(".")), key(name)

    return [(_pattern(group), group) for group in group_names(names, parts)]


def group_names(names: Iterable[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """The names with equal keys together, in the order of their first."""
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return list(groups.values())


def _pattern(names: Sequence[str]) -> str:
    columns = [dict.fromkeys(column) for column in zip(*(name.split(".") for name in names), strict=True)]
    return ".".join(next(iter(column)) if len(column) == 1 else _ranges(map(int, column)) for column in columns)


def _ranges(numbers: Iterable[int]) -> str:
    """`{0…3,7}` for 0, 1, 2, 3 and 7; of more than four ranges the middle ones are left out."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [f"{first}" if first == last else f"{first}…{last}" for first, last in ranges]
    return "{" + ",".join(texts if len(texts) <= 4 else [*texts[:2], "…", texts[-1]]) + "}"
