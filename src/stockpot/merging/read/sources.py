"""What a merge reads from: tensors by name, a range of elements at a time, wherever they lie."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stockpot.errors import StockpotError
from stockpot.weights.layout import ITEM_SIZE, FileFacts, Layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

StateDict = Mapping[str, "Tensor"]

# safetensors' names of types → torch's.
TORCH_NAMES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class TensorInfo(Protocol):
    """Type, shape, number of elements and bytes of a tensor, known before any of them is read."""

    @property
    def dtype(self) -> str:
        """The type, by its safetensors name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""

    @property
    def numel(self) -> int:
        """Number of elements."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""


@dataclass(frozen=True, slots=True)
class MemoryTensorInfo:
    """What is known of a tensor in memory."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.numel * ITEM_SIZE[self.dtype]


class TensorSource(Protocol):
    """One input of a merge. `tensors` is in file order; `files` is empty for what lies in memory."""

    label: str
    tensors: Mapping[str, TensorInfo]
    files: tuple[FileFacts, ...]
    adapter: bool

    def read(self, name: str, start: int, into: Tensor) -> None:
        """Fills the flat `into`, converting to its type, with the elements from `start` on."""

    def read_delta(self, name: str, start: int, into: Tensor) -> bool:
        """The same for what an adapter adds to its base; False where the tensor is a plain one."""

    def close(self) -> None:
        """Closes the files."""


def torch_dtype(name: str) -> torch.dtype:
    """torch's type for safetensors' name of it."""
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[name])
    return dtype


class FileSource:
    """Safetensors files, read with `pread` into buffers that are used again: no page of a file is ever mapped.

    A file that is cut while it is read is a StockpotError, not a bus error.
    """

    adapter = False

    def __init__(self, layout: Layout, label: str | None = None) -> None:
        self.label = label or str(layout.path)
        self.tensors: Mapping[str, TensorInfo] = layout.entries
        self.files = layout.files
        self._entries = layout.entries
        self._handles: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._scratch = threading.local()

    def read(self, name: str, start: int, into: Tensor) -> None:
        """Fills the flat `into`, converting to its type, with the elements from `start` on."""
        entry = self._entries[name]
        dtype = torch_dtype(entry.dtype)
        raw = into if into.dtype is dtype else self._buffer(into.numel(), dtype)
        place = entry.offset + start * ITEM_SIZE[entry.dtype]
        read_bytes(self._handle(entry.file), place, raw, entry.file)
        if raw is not into:
            into.copy_(raw)

    def read_delta(self, name: str, start: int, into: Tensor) -> bool:
        """Plain weights: there is no delta."""
        return False

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            while self._handles:
                os.close(self._handles.popitem()[1])

    def _handle(self, file: Path) -> int:
        handle = self._handles.get(file)
        if handle is None:
            with self._lock:
                if file not in self._handles:
                    try:
                        self._handles[file] = os.open(file, os.O_RDONLY)
                    except OSError as error:
                        raise StockpotError(f"{file} can no longer be read: {error.strerror}.") from error
                handle = self._handles[file]
        return handle

    def _buffer(self, count: int, dtype: torch.dtype) -> Tensor:
        import torch

        nbytes = count * dtype.itemsize
        held = getattr(self._scratch, "bytes", None)
        if held is None or held.numel() < nbytes:
            held = self._scratch.bytes = torch.empty(nbytes, dtype=torch.uint8)
        view: Tensor = held[:nbytes].view(dtype)
        return view


def read_bytes(handle: int, place: int, into: Tensor, file: Path) -> None:
    """Fills a flat tensor with a file's bytes from `place` on; raises StockpotError where the file ends before."""
    import torch

    view = into.view(torch.uint8).numpy().data
    done = 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], place + done)
        if count == 0:
            raise StockpotError(f"{file} ended at byte {place + done:,} while it was read: it was cut or replaced.")
        done += count


class MemorySource:
    """A state dict. Tied names are read as often as they are named; nothing in it is ever written to."""

    adapter = False

    def __init__(self, state: Mapping[str, Tensor], label: str, files: tuple[FileFacts, ...] = ()) -> None:
        import torch

        names = {name: short for short, name in TORCH_NAMES.items()}
        self.label = label
        self.files = files
        self._state: dict[str, Tensor] = {}
        tensors: dict[str, TensorInfo] = {}
        for name, tensor in state.items():
            if not isinstance(name, str) or not name.isprintable() or name == "__metadata__":
                raise StockpotError(f"{label}: {name!r} can be no tensor's name in a safetensors file.")
            if not isinstance(tensor, torch.Tensor):
                raise StockpotError(f"{label}: '{name}' is no tensor but a {type(tensor).__name__}.")
            short = names.get(str(tensor.dtype).removeprefix("torch."))
            if short is None:
                known = ", ".join(TORCH_NAMES.values())
                raise StockpotError(
                    f"{label}: tensor '{name}' has the type {tensor.dtype}, which is not supported here; supported are "
                    f"{known}."
                )
            if tensor.layout != torch.strided:
                raise StockpotError(f"{label}: tensor '{name}' is {tensor.layout}, not a dense one: not merged.")
            self._state[name] = tensor.detach()
            tensors[name] = MemoryTensorInfo(short, tuple(tensor.shape))
        self.tensors: Mapping[str, TensorInfo] = tensors

    def read(self, name: str, start: int, into: Tensor) -> None:
        """Fills the flat `into`, converting to its type, with the elements from `start` on."""
        into.copy_(self._state[name].reshape(-1)[start : start + into.numel()])

    def read_delta(self, name: str, start: int, into: Tensor) -> bool:
        """Plain weights: there is no delta."""
        return False

    def close(self) -> None:
        """Nothing is open."""
