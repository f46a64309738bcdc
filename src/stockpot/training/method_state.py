"""A method's state on disk: tensors as safetensors, values as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from stockpot.methods.base import Method

_TENSORS = "method.safetensors"
_VALUES = "method.json"


def write_state(method: Method[Any], folder: Path) -> None:
    """Writes the method's state into `folder`."""
    tensors, values = method.state()
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(folder / _TENSORS))
    (folder / _VALUES).write_text(json.dumps(values, allow_nan=False), encoding="utf-8")


def read_state(method: Method[Any], folder: Path) -> None:
    """Loads what `write_state` wrote into the method."""
    values: dict[str, Any] = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
    method.load_state(load_file(str(folder / _TENSORS)), values)
