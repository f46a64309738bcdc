"""Merges the candidates of a greedy soup, scores and deletes them, and merges the chosen one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.merging.execute import merge_into, merge_state
from stockpot.merging.greedy_soup import GreedySoup, greedy_soup
from stockpot.merging.options import Options
from stockpot.merging.read.inputs import located
from stockpot.merging.read.sources import StateDict
from stockpot.merging.spec.merge_spec import MergeSpec
from stockpot.merging.write.model_folder import partial_folder

if TYPE_CHECKING:
    from torch import Tensor

OnScore = Callable[[Sequence[str], float], None]  # called with the models of a candidate and their score


def soup_state(
    spec: MergeSpec, score: Callable[[dict[str, Tensor]], float], options: Options, states: Mapping[str, StateDict]
) -> dict[str, Tensor]:
    """The greedy soup in memory; `score` gets state dicts."""

    def merged(members: Sequence[int]) -> dict[str, Tensor]:
        return merge_state(_of(spec, members), options, states)

    soup = greedy_soup(len(spec.models), lambda members: score(merged(members)))
    return merged(soup.members)


def soup_into(
    spec: MergeSpec,
    score: Callable[[Path], float],
    output: Path,
    options: Options,
    states: Mapping[str, StateDict] | None = None,
    on_score: OnScore = lambda models, value: None,
) -> GreedySoup:
    """The greedy soup in a folder; `score` gets folders, for a single model the folder that it is in, if any.

    Candidates are written next to the output and deleted after scoring.
    """
    trial = output.with_name(f".trial-{output.name}")
    if trial.exists():
        raise StockpotError(f"{trial} is left over from an interrupted greedy soup: delete it.")

    def scored(members: Sequence[int]) -> float:
        paths = [spec.models[number].path for number in members]
        if len(paths) == 1 and (folder := _own_folder(paths[0], states)) is not None:
            value = score(folder)
        else:
            try:
                merge_into(_of(spec, members), trial, replace(options, verify=False, sync=False), states=states)
                value = score(trial)
            finally:
                for folder in (trial, partial_folder(trial)):
                    shutil.rmtree(folder, ignore_errors=True)
        on_score(paths, value)
        return value

    soup = greedy_soup(len(spec.models), scored)
    merge_into(_of(spec, soup.members), output, options, states=states)
    return soup


def _of(spec: MergeSpec, members: Sequence[int]) -> MergeSpec:
    return replace(spec, rule="linear", models=tuple(spec.models[number] for number in members))


def _own_folder(path: str, states: Mapping[str, StateDict] | None) -> Path | None:
    if (states and path in states) or "+" in path:
        return None
    folder = located(path)
    return folder if (folder / "config.json").is_file() else None
