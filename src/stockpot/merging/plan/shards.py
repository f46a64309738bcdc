"""The output's files: which tensor goes where, and the index that says so."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stockpot.errors import StockpotError
from stockpot.merging.plan.merge_plan import Target

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(size: str) -> int:
    """`5GB` → 5,000,000,000; raises StockpotError where it is no size."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?B?)\s*", size, re.IGNORECASE)
    unit = found[2].upper() if found else ""
    unit = unit if unit in _UNITS else unit + "B"
    try:
        count = int(float(found[1]) * _UNITS[unit]) if found else 0
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise StockpotError(f"{size!r} is not a size of files; write 5GB or 500MB.")
    return count


def split_into_shards(targets: Sequence[Target], largest: int) -> list[list[Target]]:
    """The targets in order, cut into shards of at most `largest` bytes, a tensor that is larger alone."""
    shards: list[list[Target]] = [[]]
    held = 0
    for target in targets:
        if shards[-1] and held + target.nbytes > largest:
            shards.append([])
            held = 0
        shards[-1].append(target)
        held += target.nbytes
    return shards


def file_names(count: int, stem: str = "model") -> list[str]:
    """`model.safetensors`, or `model-00001-of-00003.safetensors` and so on."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
