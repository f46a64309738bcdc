"""The sums of squared gradients of a training with beta="auto", in each of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint

_FILE = "sfa_squared_gradients.safetensors"


def write_squares(observed: Mapping[str, Any], checkpoint: Path) -> None:
    """Writes what `SFA.observed` returns into a checkpoint; nothing where no gradients are observed."""
    if observed:
        count = {"observed": str(observed["observed"])}
        save_checkpoint(observed["squared_gradients"], checkpoint / _FILE, count)


def read_squares(checkpoint: Path) -> dict[str, Any]:
    """What `write_squares` wrote; empty without such a file. Raises StockpotError for one that is damaged."""
    file = checkpoint / _FILE
    if not file.is_file():
        return {}
    saved = open_checkpoint(file)
    if not saved.metadata.get("observed", "").isdigit():
        raise StockpotError(f"{file} does not say over how many steps the squares were summed.")
    return {"squared_gradients": dict(saved), "observed": int(saved.metadata["observed"])}
