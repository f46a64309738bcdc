"""Ω: how much each weight matters to the tasks so far; one file between tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from stockpot.errors import StockpotError, did_you_mean
from stockpot.files import write_json
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint

FILE, CONVENTION = "importance.safetensors", "importance.json"
_MEANING = "sum over the tasks of the mean over their steps of the squared gradient of each weight"


@dataclass(frozen=True)
class PastImportance:
    """Ω_i = Σ over past tasks of v_i, the mean over a task's steps of the squared gradient of weight i.

    Attributes:
        tensors: Ω by name, in the shapes of the weights; of a LoRA factor one number for each row of ΔW. Without
            tensors the past is unknown: each weight counts for as much as the new task's mean v.
        tasks: t, the number of past tasks; 0 where there is nothing to protect.
    """

    tensors: Mapping[str, Tensor]
    tasks: int

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `importance.safetensors`, and beside it `importance.json`, which says what the numbers are.

        Raises:
            StockpotError: if the disk is full or the folder cannot be written.
        """
        save_checkpoint(self.tensors, Path(folder) / FILE, {"tasks": str(self.tasks)})
        convention = {"schema": 1, "importance": _MEANING, "gradient": "as the optimizer gets it", "tasks": self.tasks}
        write_json(Path(folder) / CONVENTION, convention)


NOTHING = PastImportance({}, 0)
UNIFORM = PastImportance({}, 1)
ImportanceSource = str | os.PathLike[str] | PastImportance


def past_importance(source: ImportanceSource) -> PastImportance:
    """The importance that a setting names: "uniform", "none", or a folder or file that `PastImportance.save` wrote.

    A file stays memory-mapped. Raises StockpotError where it is missing, damaged, or not such a file.
    """
    if isinstance(source, PastImportance):
        return source
    if source == "uniform":
        return UNIFORM
    if source == "none":
        return NOTHING
    return _load(Path(source))


def _load(path: Path) -> PastImportance:
    if not path.exists():
        hint = did_you_mean(str(path), ("uniform", "none"))
        raise StockpotError(f"importance: {path} does not exist.{hint} It is 'uniform', 'none', or a saved importance.")
    file = path / FILE if path.is_dir() else path
    record = file.with_suffix(".json")
    tensors = dict(open_checkpoint(file))
    try:
        values: Any = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StockpotError(f"{record} does not say what {file.name} holds: {error}.") from error
    tasks = values.get("tasks") if isinstance(values, dict) and values.get("importance") == _MEANING else None
    if not isinstance(tasks, int) or isinstance(tasks, bool) or tasks < 1:
        raise StockpotError(f"{record} does not describe the importance of past tasks that SFA saves.")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool((tensor.isfinite() & (tensor >= 0)).all()):
            raise StockpotError(f"{file}: '{name}' holds values that are not finite numbers ≥ 0: not an importance.")
    return PastImportance(tensors, tasks)


def with_rows(importance: Tensor, rows: int) -> Tensor:
    """The first `rows` rows of Ω, with zeros for those that it lacks: no past task had them."""
    if importance.dim() == 0 or len(importance) == rows:
        return importance
    if len(importance) > rows:
        return importance[:rows]
    return functional.pad(importance, (0, 0) * (importance.dim() - 1) + (0, rows - len(importance)))
