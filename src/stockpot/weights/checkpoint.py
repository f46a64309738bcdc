"""Checkpoints on disk: opened memory-mapped, written whole or not at all. Safetensors only, never a pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stockpot.errors import StockpotError
from stockpot.files import TEMPORARY, explaining_disk_errors, sync
from stockpot.weights.layout import files_of, read_header


class Checkpoint(Mapping[str, Tensor]):
    """Name → CPU tensor over one or more safetensors files, kept open and memory-mapped.

    Tensors are views of the files: reading one takes page cache, no anonymous memory; writes to one never reach the
    file. `path` is what was opened, `metadata` the text metadata of the files' headers.
    """

    def __init__(self, path: Path, handles: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.metadata = dict(metadata)
        self._handles = dict(handles)

    def __getitem__(self, name: str) -> Tensor:
        handle = self._handles[name]
        try:
            tensor: Tensor = handle.get_tensor(name)
        except Exception as error:  # safetensors passes on what torch raises for a dtype that torch lacks
            raise StockpotError(f"{self.path}: tensor '{name}' cannot be read: {error}") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a `.safetensors` file, or a folder with `model.safetensors` or `model.safetensors.index.json`.

    Returns:
        Its tensors by name, memory-mapped.

    Raises:
        StockpotError: if there is nothing to open, or only pickles; for a damaged file, and for an index that names a
            file outside its own folder.
    """
    path = Path(path)
    files = files_of(path)
    if isinstance(files, Path):
        handle = _open_file(files)
        return Checkpoint(path, dict.fromkeys(handle.keys(), handle), handle.metadata() or {})
    handles = {file: _open_file(file) for file in dict.fromkeys(files.values())}
    stored = {file: frozenset(handle.keys()) for file, handle in handles.items()}
    for name, file in files.items():
        if name not in stored[file]:
            raise StockpotError(f"the index of {path} says that {file.name} holds tensor '{name}', which it does not.")
    return Checkpoint(path, {name: handles[file] for name, file in files.items()}, {})


def save_checkpoint(
    tensors: Mapping[str, Tensor], file: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes one safetensors file under a temporary name, syncs it, renames it: a reader sees all of it or nothing.

    Args:
        tensors: name → tensor, written contiguous and in its own dtype; none may share memory.
        file: where to write; its folder is made.
        metadata: text for the file's header.

    Raises:
        StockpotError: if the disk is full or the folder cannot be written.
    """
    file = Path(file)
    temporary = file.with_name(f"{TEMPORARY}{os.getpid()}-{file.name}")
    with explaining_disk_errors(file):
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


def _open_file(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        read_header(file)  # has a more exact message: an unsupported type is not damage
        raise StockpotError(f"{file} is not a whole safetensors file (truncated or damaged): {error}") from error
