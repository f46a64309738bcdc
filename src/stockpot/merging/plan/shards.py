"""The output's files: their size, their names, and which tensor goes into which."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stockpot.errors import StockpotError
from stockpot.merging.plan.merge_plan import Target

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(size: str) -> int:
    """`5GB` → 5,000,000,000 bytes; raises StockpotError if it is not a size."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?B?)\s*", size, re.IGNORECASE)
    unit = match[2].upper() if match else ""
    unit = unit if unit in _UNITS else unit + "B"
    try:
        count = int(float(match[1]) * _UNITS[unit]) if match else 0
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise StockpotError(f"{size!r} is not a file size; write 5GB or 500MB.")
    return count


def split_into_shards(targets: Sequence[Target], largest: int) -> list[list[Target]]:
    """The targets in order, split into shards of at most `largest` bytes; a larger tensor gets a shard of its own."""
    shards: list[list[Target]] = [[]]
    filled = 0
    for target in targets:
        if shards[-1] and filled + target.nbytes > largest:
            shards.append([])
            filled = 0
        shards[-1].append(target)
        filled += target.nbytes
    return shards


def file_names(count: int, stem: str = "model") -> list[str]:
    """`model.safetensors`, or `model-00001-of-00003.safetensors` and so on."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
