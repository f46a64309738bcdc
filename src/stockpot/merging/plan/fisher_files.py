"""Saved Fisher information: safetensors under the model's names, and how it was estimated in a JSON file beside."""

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
    """Every Fisher that the plan's settings name, by its path; those in memory by their label in `states`.

    Raises StockpotError where a file is missing or of another model, or where two were estimated in different ways.
    """
    found: dict[str, TensorSource] = {}
    if not plan.rule.fishers:
        return found
    conventions: dict[str, dict[str, Any]] = {}
    for target in plan.targets:
        for part, settings in zip(target.inputs, target.settings.each, strict=True):
            path = str(settings["fisher"])
            if path not in found and path in states:
                found[path] = MemorySource(states[path], path)
            elif path not in found:
                found[path] = FileSource(read_layout(path, "fisher"))
                conventions[path] = _convention(Path(path))
                _same(path, conventions)
            info = found[path].tensors.get(part.name)
            if info is not None and (info.shape != target.shape or info.dtype not in FLOATS):
                raise StockpotError(f"{path}: '{part.name}' is {info.dtype} {list(info.shape)}: of another model.")
    for path, source in found.items():
        names = {part.name for target in plan.targets for part in target.inputs}
        if not names & set(source.tensors):
            raise StockpotError(f"{path} holds none of the model's tensors: it is the Fisher of another model.")
    return found


def _convention(path: Path) -> dict[str, Any]:
    file = path / "fisher.json" if path.is_dir() else path.with_suffix(".json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StockpotError(f"{file} is missing: it says how {path} was estimated.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StockpotError(f"{file} does not say how {path} was estimated: {error}.") from error
    if not isinstance(found, dict):
        raise StockpotError(f"{file} does not say how {path} was estimated: it is no JSON object.")
    return found


def _same(path: str, conventions: dict[str, dict[str, Any]]) -> None:
    first, *_ = conventions
    # Means over different numbers of examples can be compared.
    for key in sorted({*conventions[first], *conventions[path]} - {"examples"}):
        mine, theirs = conventions[first].get(key), conventions[path].get(key)
        if mine != theirs:
            raise StockpotError(
                f"{first} and {path} were estimated in different ways ({key}: {mine!r} and {theirs!r}): "
                "their numbers cannot be compared."
            )
