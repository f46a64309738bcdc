"""Small models, and merges that must be refused in one line and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stockpot import StockpotError
from stockpot.merging.api import merge

FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def model(folder: Path, **tensors: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name.replace("_", "."): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def random_model(folder: Path, seed: int, **others: Tensor) -> Path:
    draw = torch.Generator().manual_seed(seed)
    drawn = {"a_weight": torch.randn(6, 4, generator=draw), "b_weight": torch.randn(5, generator=draw)}
    return model(folder, **(drawn | others))


def state_of(home: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in home.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def refusal(home: Path, rule: str, models: Any, base: Any = None, output: Path | None = None, **more: Any) -> str:
    """The one-line message of a refused merge into `output`, which changes nothing on the disk."""
    before = state_of(home)
    with pytest.raises(StockpotError) as caught:
        merge(rule, models, base, output or home / "out", **more)
    assert str(caught.value).isprintable()
    assert state_of(home) == before
    assert not list(home.glob(".tmp-*"))
    return str(caught.value)
