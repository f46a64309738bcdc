"""Models with configurations and other files, and what a merge writes next to its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stockpot import StockpotError
from stockpot.merging.api import Options
from stockpot.merging.execute import merge_into
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec, Slice, SliceSource
from stockpot.weights.checkpoint import save_checkpoint

FAST = Options(sync=False)


def state(layers: int = 2) -> dict[str, Tensor]:
    names = ["embed_tokens.weight", *(f"layers.{i}.weight" for i in range(layers)), "norm.weight"]
    return {f"model.{name}": torch.randn(4, 4) for name in names}


def model(folder: Path, config: Any = None, layers: int = 2, **files: str) -> Path:
    """A folder with weights, a configuration (none for None) and other files by name, `__` for a dot."""
    save_checkpoint(state(layers), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, text in files.items():
        file = folder / name.replace("__", ".").replace("-", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


def linear(*folders: Path, **more: Any) -> MergeSpec:
    return MergeSpec("linear", tuple(MergeModel(str(folder)) for folder in folders), **more)


def merged(spec: MergeSpec, output: Path, options: Options = FAST) -> Path:
    return merge_into(spec, output, options)


def configured(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "stockpot_merge.json").read_text())  # type: ignore[no-any-return]


def noted(folder: Path) -> str:
    return "\n".join(facts(folder)["notes"])


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The card's metadata, and the rest."""
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


def refusal(spec: MergeSpec, output: Path) -> str:
    """The message of a refused merge, which leaves nothing behind, not even part of an output."""
    with pytest.raises(StockpotError) as caught:
        merged(spec, output)
    assert "\n" not in str(caught.value)
    assert not list(output.parent.glob(f"*{output.name}*"))
    return str(caught.value)


def sliced(donor: Path, *ranges: tuple[Path, int, int]) -> MergeSpec:
    slices = tuple(Slice((SliceSource(str(path), first, last),)) for path, first, last in ranges)
    return MergeSpec("passthrough", base=str(donor), slices=slices)
