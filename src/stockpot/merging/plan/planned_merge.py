"""A merge with its inputs open and its plan made: the start of estimating, of merging and of writing an adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stockpot.merging.options import Options
from stockpot.merging.plan.fisher_files import open_fishers
from stockpot.merging.plan.merge_plan import Plan, make_plan
from stockpot.merging.read.inputs import Inputs
from stockpot.merging.read.sources import StateDict, TensorSource
from stockpot.merging.spec.merge_spec import MergeSpec


@dataclass
class PlannedMerge:
    """A planned merge with open sources.

    `paths` are all files and folders that it reads, `folders` those of the models by their names; see `Inputs`.
    """

    plan: Plan
    paths: Sequence[Path]
    fishers: Mapping[str, TensorSource] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)


@contextlib.contextmanager
def planned_merge(
    spec: MergeSpec, options: Options, states: Mapping[str, StateDict] | None = None
) -> Iterator[PlannedMerge]:
    """Opens every input and plans the merge; closes them when the block ends."""
    with contextlib.ExitStack() as closing:
        inputs = Inputs(spec, states or {}, options.allow_bin)
        closing.callback(inputs.close)
        plan = make_plan(inputs.spec, inputs.sources)
        fishers = open_fishers(plan, states or {})
        for source in fishers.values():
            closing.callback(source.close)
        yield PlannedMerge(plan, inputs.places, fishers, inputs.folders)
