"""Checkpoints on disk: opened memory-mapped, written whole or not at all. Safetensors only, never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stockpot.errors import StockpotError
from stockpot.files import TEMPORARY, explained, sync

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_CONVERT = (
    "load it once with the library that wrote it and save it with "
    "`save_pretrained(folder)` or `safetensors.torch.save_file`"
)


class Checkpoint(Mapping[str, Tensor]):
    """Name → CPU tensor over one or more safetensors files, kept open and memory-mapped.

    Tensors are views of the files: reading one costs page cache, no anonymous memory; writing to one never reaches
    the file. `path` is what was opened, `metadata` the text metadata of the files' headers.
    """

    def __init__(self, path: Path, handles: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.metadata = dict(metadata)
        self._handles = dict(handles)

    def __getitem__(self, name: str) -> Tensor:
        handle = self._handles[name]
        try:
            tensor: Tensor = handle.get_tensor(name)
        except Exception as error:  # safetensors raises whatever torch does for a dtype that torch lacks
            raise StockpotError(f"{self.path}: tensor '{name}' cannot be read: {error}") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a `.safetensors` file, or a folder with `model.safetensors` or `model.safetensors.index.json`.

    Raises StockpotError where there is nothing to open, where there are only pickles, where a file is damaged, and
    where an index names a file outside its own folder.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "model.safetensors").is_file():
            return _open_single(path, path / "model.safetensors")
        if (path / "model.safetensors.index.json").is_file():
            return _open_sharded(path, path / "model.safetensors.index.json")
        raise StockpotError(f"{path} holds no model.safetensors and no model.safetensors.index.json{_instead(path)}")
    if not path.is_file():
        raise StockpotError(f"{path} does not exist; give a .safetensors file, or a folder with model.safetensors.")
    if path.suffix in _PICKLES:
        raise StockpotError(f"{path} is not a safetensors file, and a pickle is never loaded here; {_CONVERT}.")
    return _open_single(path, path)


def save_checkpoint(
    tensors: Mapping[str, Tensor], file: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes one safetensors file under a temporary name, syncs it, renames it: a reader sees all of it or nothing.

    Tensors are written contiguous, in the type they have; none may share memory. Raises StockpotError when the disk
    is full or the folder cannot be written.
    """
    file = Path(file)
    temporary = file.with_name(f"{TEMPORARY}{os.getpid()}-{file.name}")
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(whole, temporary, metadata={"format": "pt", **(metadata or {})})
            sync(temporary)
            temporary.replace(file)
            sync(file.parent)
        except SafetensorError as error:
            raise StockpotError(f"{file} could not be written: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)


def _instead(folder: Path) -> str:
    if (folder / "adapter_model.safetensors").is_file():
        return ": it is an adapter; merge it into its base model first (`merge_and_unload`) and save that."
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        return f", only {pickles[0]}, and a pickle is never loaded here; {_CONVERT}."
    others = sorted(folder.glob("*.safetensors"))
    return f"; name the file itself, for example {others[0]}." if others else "."


def _open_file(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise StockpotError(f"{file} is not a whole safetensors file (truncated or damaged): {error}") from error


def _open_single(path: Path, file: Path) -> Checkpoint:
    handle = _open_file(file)
    return Checkpoint(path, dict.fromkeys(handle.keys(), handle), handle.metadata() or {})


def _open_sharded(folder: Path, index: Path) -> Checkpoint:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StockpotError(f"{index} is not an index of safetensors files: {error!r}") from error
    handles = {shard: _open_file(_shard(folder, index, shard)) for shard in dict.fromkeys(shards.values())}
    held = {shard: frozenset(handle.keys()) for shard, handle in handles.items()}
    for name, shard in shards.items():
        if name not in held[shard]:
            raise StockpotError(f"{index} says that {shard} holds tensor '{name}', which it does not.")
    return Checkpoint(folder, {name: handles[shard] for name, shard in shards.items()}, {})


def _shard(folder: Path, index: Path, name: str) -> Path:
    """The shard's file; an index comes from elsewhere, so it may name plain files of its own folder only."""
    if Path(name).name != name or "\\" in name or name in {"", ".", ".."} or "\0" in name:
        raise StockpotError(f"{index} names the file {name!r}: only plain file names are read, nothing outside.")
    if not name.endswith(".safetensors"):
        raise StockpotError(f"{index} names the file {name!r}, which is not a safetensors file.")
    home, target = folder.resolve(), (folder / name).resolve()
    # The hub's cache links snapshots/REVISION/file to blobs/HASH of the same repository.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if target.parent not in (home, blobs):
        raise StockpotError(f"{folder / name} is a link out of its folder, to {target}: not read.")
    if not target.is_file():
        raise StockpotError(f"{index} names {name}, which is missing from {folder}.")
    return folder / name
