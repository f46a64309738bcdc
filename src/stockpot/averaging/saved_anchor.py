"""The anchor of a training on disk: one file beside its checkpoints, and a hard link to it in each of them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from stockpot.averaging.match import TensorPair
from stockpot.errors import StockpotError
from stockpot.files import TEMPORARY, explaining_disk_errors, make_folder, sync
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint

FOLDER, STATE = "sfa-anchor", "sfa_state.json"
_FILE = "model.safetensors"


def digest(pairs: Iterable[TensorPair]) -> str:
    """SHA-256 of θ_o as averages see it: the same for the same anchor, wherever and however it is stored."""
    total = hashlib.sha256()
    for pair in sorted((pair for pair in pairs if pair.factor is None), key=lambda pair: pair.name):
        dtype = pair.tensor.dtype if pair.tensor.dtype.itemsize > 2 else pair.anchor.dtype
        values = pair.views[1].detach().to("cpu", dtype).contiguous()
        total.update(f"{pair.name} {dtype} {tuple(values.shape)}\n".encode())
        total.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def file_in(folder: Path) -> Path:
    """The anchor's file in a folder of checkpoints, or in a checkpoint."""
    return folder / FOLDER / _FILE


def write(tensors: Mapping[str, Tensor], folder: Path, metadata: Mapping[str, str]) -> None:
    """Writes the anchor of a training that starts, beside the checkpoints that will be in `folder`."""
    _leave_to_checkpoints(folder)
    save_checkpoint(tensors, file_in(folder), metadata)


def take_over(file: Path, folder: Path) -> None:
    """Makes an anchor from elsewhere the one beside the checkpoints in `folder`."""
    if not _same(file, file_in(folder)):
        _leave_to_checkpoints(folder)
        link(file, folder)


def link(file: Path, folder: Path) -> None:
    """Puts the anchor into a folder, as a hard link or, if the file system has none, a copy; whole or not at all."""
    target = file_in(folder)
    if _same(file, target):
        return
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{_FILE}")
    with explaining_disk_errors(target):
        make_folder(target.parent)
        try:
            try:
                os.link(file, temporary)
            except OSError:
                shutil.copyfile(file, temporary)
                sync(temporary)
            temporary.replace(target)
            sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def find(folders: Iterable[Path], anchor_id: object) -> Path:
    """The file with the anchor of this id, from the first of the folders that has it. Raises StockpotError."""
    candidates = list(dict.fromkeys(map(file_in, folders)))
    existing = [file for file in candidates if file.is_file()]
    for file in existing:
        if open_checkpoint(file).metadata.get("anchor_id") == anchor_id:
            return file
    if existing:
        raise StockpotError(f"{existing[0]} is the anchor of another training: pass the right one, anchor=PATH.")
    raise StockpotError(f"the training's anchor {candidates[0]} is missing: pass where it is now, anchor=PATH.")


def _leave_to_checkpoints(folder: Path) -> None:
    """Before the file is replaced: checkpoints of an older Stockpot, which have no anchor in them, get this one."""
    file = file_in(folder)
    if file.is_file():
        for checkpoint in folder.glob("checkpoint-*"):
            if (checkpoint / STATE).is_file() and not file_in(checkpoint).is_file():
                link(file, checkpoint)


def _same(file: Path, other: Path) -> bool:
    return other.exists() and file.samefile(other)
