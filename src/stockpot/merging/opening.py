"""From what the user named to a source: a folder, a file, a model of the hub, an adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.merging.sources import FileSource, MemorySource, Source
from stockpot.weights.layout import PICKLES, plain_file, read_index, read_layout

if TYPE_CHECKING:
    from torch import Tensor

_HUB = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")


def located(path: str) -> Path:
    """The local folder or file that was named; a name of the hub is downloaded, or found in the hub's cache."""
    place = Path(path).expanduser()
    if place.exists() or not _HUB.match(path):
        if not place.exists():
            raise StockpotError(f"{path} does not exist, and is no model of the hub (OWNER/NAME).")
        return place
    from huggingface_hub import snapshot_download

    name, _, revision = path.partition("@")
    try:
        wanted = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # offline, unknown, gated: the hub's own words, in one line
        raise StockpotError(f"{path}: no such folder, and not to be had from the hub: {error}") from error


def open_model(path: Path, label: str, allow_bin: bool = False) -> Source:
    """A checkpoint's tensors; a `.bin` only with `allow_bin`, and then without running what is pickled in it."""
    if allow_bin and (pickles := _pickles(path)):
        return MemorySource(_load(pickles), label)
    if path.suffix in PICKLES or (path.is_dir() and not _has_safetensors(path) and _pickles(path)):
        raise StockpotError(
            f"{label} holds no safetensors but a pickle, which could run code: --allow-bin loads its tensors alone."
        )
    return FileSource(read_layout(path), label)


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _pickles(path: Path) -> dict[str, Path]:
    """File name → file of the pickles that hold a model, where there are no safetensors."""
    if path.is_file():
        return {path.name: path} if path.suffix in PICKLES else {}
    if _has_safetensors(path):
        return {}
    if (path / "pytorch_model.bin").is_file():
        return {"pytorch_model.bin": plain_file(path, path, "pytorch_model.bin")}
    index = path / "pytorch_model.bin.index.json"
    if not index.is_file():
        return {}
    return {name: plain_file(path, index, name) for name in dict.fromkeys(read_index(index).values())}


def _load(files: Mapping[str, Path]) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}
    for file in files.values():
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # whatever a pickle that is not just tensors makes torch raise
            said = str(error).splitlines()[0]
            raise StockpotError(f"{file} does not load as tensors alone: {said}") from error
        if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
            loaded = loaded["state_dict"]
        if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise StockpotError(f"{file} does not hold a state dict: names and tensors, nothing else.")
        state.update(loaded)
    return state
