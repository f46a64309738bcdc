"""θ_o: where the anchor comes from, and where it is stored while the model trains."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from stockpot.averaging.match import TensorPair
from stockpot.averaging.model_tensors import ModelTensor, storages
from stockpot.averaging.settings import AnchorSource, Keep
from stockpot.errors import StockpotError
from stockpot.models.names import under_own_names
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint
from stockpot.weights.tensor_memory import is_sharded, local_shard, storage_address
from stockpot.weights.tensor_names import clean_name


@dataclass(frozen=True)
class Anchor:
    """The tensors of θ_o by clean name; `path` if they are a file, `label` is what messages call them."""

    tensors: dict[str, Tensor]
    label: str
    path: Path | None = None
    scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @property
    def bytes(self) -> int:
        """Memory of this process that the anchor takes beside the model; none for a memory-mapped file."""
        return 0 if self.path else sum(local_shard(tensor).nbytes for tensor in self.tensors.values())


def find_anchor(source: AnchorSource, trained: list[ModelTensor], model: nn.Module) -> Anchor:
    """The anchor that `source` names; nothing is copied yet.

    Raises StockpotError for a path that cannot be opened, and for names that collide once prefixes are removed.
    """
    if isinstance(source, str) and source == "start":
        return Anchor({each.name: each.tensor.detach() for each in trained}, "the anchor (the model at its start)")
    if isinstance(source, str | os.PathLike):
        checkpoint = open_checkpoint(source)
        tensors, mapped = under_own_names(checkpoint, model)
        path = checkpoint.path.absolute() if mapped else None
        return Anchor(_by_clean_name(tensors), f"the anchor {checkpoint.path}", path)
    if isinstance(source, Mapping):
        return Anchor(_by_clean_name(source), "the anchor (a state dict)")
    raise StockpotError(f"anchor must be 'start', a path or a state dict, not {type(source).__name__}.")


def hold_anchor(anchor: Anchor, pairs: list[TensorPair], model: nn.Module, keep: Keep, folder: Path | None) -> Anchor:
    """The anchor stored where `keep` says, with the tensors of `pairs` only, sharing no memory with the model.

    On "disk", a file is opened where it is; tensors are written to a new file in `folder`, or in a temporary folder
    that is deleted with the anchor.
    """
    if keep == "disk" and pairs:
        return anchor if anchor.path else _written(anchor, pairs, folder)
    shared = storages(model)
    tensors = {}
    for pair in pairs:
        device = pair.tensor.device if keep == "device" else torch.device("cpu")
        # Converted once, not at every average. Half-precision weights keep the anchor's dtype, which may be more exact.
        dtype = pair.tensor.dtype if pair.tensor.dtype.itemsize > 2 else pair.anchor.dtype
        moved = pair.anchor.detach().to(device, dtype)
        place = storage_address(moved)
        mapped = anchor.path is not None and place == storage_address(pair.anchor)
        tensors[pair.name] = moved.clone() if mapped or place in shared else moved
    return replace(anchor, tensors=tensors, path=None)


def move_anchor(anchor: Anchor, trained: list[ModelTensor]) -> None:
    """Moves each tensor of the anchor to the device that the model's tensor is on now."""
    for each in trained:
        for name in each.names:
            if name in anchor.tensors:
                anchor.tensors[name] = anchor.tensors[name].to(each.tensor.device)


def _written(anchor: Anchor, pairs: list[TensorPair], folder: Path | None) -> Anchor:
    for pair in pairs:
        if is_sharded(pair.anchor):
            raise StockpotError(f"'{pair.name}' is sharded over processes: keep='disk' cannot hold it; use 'device'.")
    scratch = None if folder else tempfile.TemporaryDirectory(prefix="stockpot-")
    # A new name each time: a resumed run that makes a new SFA must not overwrite the anchor that it will load.
    file = (folder or Path(scratch.name if scratch else "")) / f"anchor-{uuid.uuid4().hex[:12]}.safetensors"
    save_checkpoint({pair.name: pair.anchor for pair in pairs}, file)
    return Anchor(dict(open_checkpoint(file)), anchor.label, file.absolute(), scratch)


def _by_clean_name(tensors: Mapping[str, object]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for raw, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            continue  # a module's `_extra_state` can be anything
        name = clean_name(raw)
        if type(tensor).__name__ == "ShardedTensor" or name.split(".")[-1] == "_flat_param":
            raise StockpotError(f"the anchor's '{raw}' is a flat piece of FSDP1: pass a full state dict, or use FSDP2.")
        if name in named:
            raise StockpotError(f"the anchor holds '{name}' twice, once with a wrapper's prefix ('{raw}').")
        named[name] = tensor
    return named
