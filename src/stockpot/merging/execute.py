"""Carries out a merge: into a state dict, or into a folder that `from_pretrained` loads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.merging.compute.engine import MergeEngine, OnProgress
from stockpot.merging.options import Options
from stockpot.merging.plan.costs import require_room
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.plan.planned_merge import PlannedMerge, planned_merge
from stockpot.merging.plan.shards import parse_size
from stockpot.merging.read.sources import StateDict, torch_dtype
from stockpot.merging.spec.merge_spec import MergeSpec, spec_to_mapping
from stockpot.merging.threads import one_thread_each
from stockpot.merging.write.donor import choose_sidecars
from stockpot.merging.write.model_folder import refuse_output, write_model
from stockpot.merging.write.sidecars import write_sidecars

if TYPE_CHECKING:
    from torch import Tensor


def _engine(planned: PlannedMerge, options: Options, on_progress: OnProgress = lambda nbytes: None) -> MergeEngine:
    """The engine for a planned merge."""
    if options.threads is not None and options.threads < 1:
        raise StockpotError(f"threads must be 1 or more, not {options.threads}.")
    return MergeEngine(planned.plan, options.thread_count, options.allow_nonfinite, planned.fishers, on_progress)


def merge_state(spec: MergeSpec, options: Options, states: Mapping[str, StateDict] | None = None) -> dict[str, Tensor]:
    """Merges into a state dict in memory."""
    with planned_merge(spec, options, states) as planned, one_thread_each():
        engine, plan = _engine(planned, options), planned.plan
        sink = _StateSink(plan)
        cuts = engine.cuts if spec.trim == "model" else engine.own_cuts
        engine.merge(plan.targets, sink, cuts(plan.targets))
        return sink.state


class _StateSink:
    """A state dict that is filled piece by piece."""

    def __init__(self, plan: Plan) -> None:
        import torch

        self.state = {
            target.name: torch.empty(target.shape, dtype=torch_dtype(target.dtype)) for target in plan.targets
        }

    def write(self, name: str, start: int, flat: Tensor) -> None:
        """Takes elements of a tensor, from index `start` on."""
        self.state[name].view(-1)[start : start + flat.numel()] = flat


def merge_into(
    spec: MergeSpec,
    output: Path,
    options: Options,
    on_progress: OnProgress = lambda nbytes: None,
    states: Mapping[str, StateDict] | None = None,
) -> Path:
    """Merges into a folder that `from_pretrained` loads; returns the folder."""
    if options.as_adapter or options.adapter_rank is not None:
        from stockpot.merging.write.adapter_output import write_adapter  # pydantic is slow to import

        write_adapter(spec, output, options.adapter_rank, options, states)
        return output
    largest = parse_size(options.max_shard_size)
    with planned_merge(spec, options, states) as planned, one_thread_each():
        refuse_output(output, planned.paths)
        sidecars = choose_sidecars(planned.plan, planned.folders)
        if not options.resume:
            require_room(planned.plan.nbytes + sum(file.stat().st_size for file in sidecars.copies.values()), output)
        write_model(
            planned.plan,
            _engine(planned, options, on_progress),
            output,
            merge_identity(planned, largest),
            largest,
            lambda folder: write_sidecars(
                folder, planned.plan, sidecars, planned.folders, planned.fishers, options.hash_files
            ),
            options.verify,
            options.sync,
            options.resume,
        )
    return output


def merge_identity(planned: PlannedMerge, largest: int) -> str:
    """A hash of the spec and of every input file's header, size and modification time: equal for the same merge."""
    facts = [
        (str(facts.file), facts.header_sha256, facts.nbytes, facts.file.stat().st_mtime_ns)
        for source in (*planned.plan.sources, *planned.fishers.values())
        for facts in source.files
    ]
    text = json.dumps([spec_to_mapping(replace(planned.plan.spec)), facts, largest], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
