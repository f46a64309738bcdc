"""Saved Fisher information: safetensors with the model's names, next to a JSON file that says how it was estimated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.errors import StockpotError
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.read.sources import FileSource, MemorySource, TensorSource
from stockpot.weights.layout import FLOATS, read_layout

if TYPE_CHECKING:
    from torch import Tensor


def open_fishers(plan: Plan, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, TensorSource]:
    """Opens every Fisher that the plan's settings name, by its path; those in memory by their label in `states`.

    Raises StockpotError if a file is missing or belongs to another model, or if two were estimated in different ways.
    """
    fishers: dict[str, TensorSource] = {}
    if not plan.rule.fishers:
        return fishers
    conventions: dict[str, dict[str, Any]] = {}
    for target in plan.targets:
        for part, settings in zip(target.inputs, target.settings.each, strict=True):
            path = str(settings["fisher"])
            if path not in fishers and path in states:
                fishers[path] = MemorySource(states[path], path)
            elif path not in fishers:
                fishers[path] = FileSource(read_layout(path, "fisher"))
                conventions[path] = _read_convention(Path(path))
                _require_same(path, conventions)
            info = fishers[path].tensors.get(part.name)
            if info is not None and (info.shape != target.shape or info.dtype not in FLOATS):
                raise StockpotError(
                    f"{path}: '{part.name}' is {info.dtype} {list(info.shape)}: it is the Fisher of another model."
                )
    for path, source in fishers.items():
        names = {part.name for target in plan.targets for part in target.inputs}
        if not names & set(source.tensors):
            raise StockpotError(f"{path} has none of the model's tensors: it is the Fisher of another model.")
    return fishers


def _read_convention(path: Path) -> dict[str, Any]:
    file = path / "fisher.json" if path.is_dir() else path.with_suffix(".json")
    try:
        convention = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StockpotError(f"{file} is missing: it says how {path} was estimated.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StockpotError(f"{file} does not say how {path} was estimated: {error}.") from error
    if not isinstance(convention, dict):
        raise StockpotError(f"{file} does not say how {path} was estimated: it is not a JSON object.")
    return convention


def _require_same(path: str, conventions: dict[str, dict[str, Any]]) -> None:
    first, *_ = conventions
    # Fishers are means, so those over different numbers of examples can be compared.
    for key in sorted({*conventions[first], *conventions[path]} - {"examples"}):
        one_value, other_value = conventions[first].get(key), conventions[path].get(key)
        if one_value != other_value:
            raise StockpotError(
                f"{first} and {path} were estimated in different ways ({key}: {one_value!r} and {other_value!r}) "
                "and cannot be compared."
            )
