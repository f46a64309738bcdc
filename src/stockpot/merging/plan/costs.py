"""What a merge will cost, known from headers: bytes read and written, memory, disk space."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import StockpotError
from stockpot.merging.options import Options
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.plan.shards import file_names, parse_size, split_into_shards
from stockpot.merging.threads import PIECE

# Bytes that Python and torch take by themselves, and temporary copies of a piece that a rule makes.
_TORCH = 160_000_000
_TEMPORARIES = 6


@dataclass(frozen=True)
class MergeEstimate:
    """The costs of a merge, in bytes where nothing else is said.

    `parameters` counts elements, `passes` how often the inputs are read; `work` is the total of the progress bar and
    `free` the free space on the output's disk.
    """

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    shards: tuple[str, ...]
    written: int
    read: int
    work: int
    passes: int
    memory: int
    threads: int
    free: int
    fits: bool
    notes: tuple[str, ...]


def estimate_costs(plan: Plan, output: Path, options: Options) -> MergeEstimate:
    """The costs of a planned merge into `output`."""
    shards = split_into_shards(plan.targets, parse_size(options.max_shard_size))
    passes = 2 if plan.rule.cuts is not None or any(plan.gram(target) == "tensor" for target in plan.targets) else 1
    free, threads = _free(output), options.thread_count
    return MergeEstimate(
        len(plan.targets),
        sum(target.numel for target in plan.targets),
        tuple(sorted({target.dtype for target in plan.targets})),
        tuple(file_names(len(shards))),
        plan.nbytes,
        _read(plan) * passes,
        plan.nbytes * passes,
        passes,
        _TORCH + threads * PIECE * (8 if plan.wide else 4) * (_models(plan) + _TEMPORARIES),
        threads,
        free,
        plan.nbytes < free,
        tuple(plan.notes),
    )


def require_room(needed: int, output: Path) -> None:
    """Raises StockpotError if fewer than `needed` bytes are free on the output's disk."""
    free = _free(output)
    if needed > free:
        raise StockpotError(f"{output}: the merge writes {needed:,} bytes, but only {free:,} are free on that disk.")


def _free(output: Path) -> int:
    return shutil.disk_usage(next(folder for folder in output.absolute().parents if folder.exists())).free


def _models(plan: Plan) -> int:
    return max((len(target.inputs) for target in plan.targets), default=0) + 1


def _read(plan: Plan) -> int:
    parts = [part for target in plan.targets for part in (*target.inputs, *([target.base] if target.base else []))]
    return sum(plan.sources[part.source].tensors[part.name].nbytes for part in parts)
