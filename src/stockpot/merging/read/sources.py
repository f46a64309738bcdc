"""Sources of tensors, on disk or in memory: read by name, a range of elements at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stockpot.errors import StockpotError
from stockpot.merging.threads import PIECE
from stockpot.weights.layout import ITEM_SIZE, FileFacts, Layout, TensorExtent

if TYPE_CHECKING:
    import torch
    from torch import Tensor

StateDict = Mapping[str, "Tensor"]

# Type names: safetensors → torch.
TORCH_NAMES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class TensorInfo(Protocol):
    """Type, shape and size of a tensor, known before it is read."""

    @property
    def dtype(self) -> str:
        """The type, by its safetensors name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape; empty for a scalar."""

    @property
    def numel(self) -> int:
        """Number of elements."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""


@dataclass(frozen=True, slots=True)
class MemoryTensorInfo(TensorExtent):
    """Type, shape and size of a tensor in memory."""

    dtype: str
    shape: tuple[int, ...]


class TensorSource(Protocol):
    """One input of a merge. `tensors` is in file order; `files` is empty for tensors in memory."""

    label: str
    tensors: Mapping[str, TensorInfo]
    files: tuple[FileFacts, ...]
    is_adapter: bool

    def read(self, name: str, start: int, into: Tensor) -> None:
        """Fills the flat `into`, converting to its type, with the elements from `start` on."""

    def read_delta(self, name: str, start: int, into: Tensor) -> bool:
        """The same for what an adapter adds to its base, ΔW; returns False if the source has no ΔW to give."""

    def close(self) -> None:
        """Closes the files."""


def torch_dtype(name: str) -> torch.dtype:
    """torch's type of that safetensors name."""
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[name])
    return dtype


def read_pieces(source: TensorSource, name: str, dtype: str) -> Iterator[Tensor]:
    """A tensor's elements, flat and in order, in pieces of at most `PIECE`, converted to the type of that name."""
    import torch

    count = source.tensors[name].numel
    for start in range(0, count, PIECE):
        piece = torch.empty(min(PIECE, count - start), dtype=torch_dtype(dtype))
        source.read(name, start, piece)
        yield piece


class FileSource:
    """Safetensors files, read with `pread` into reused buffers; files are never memory-mapped.

    So a file that is truncated while it is read raises a StockpotError, not a bus error.
    """

    is_adapter = False

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
        offset = entry.offset + start * ITEM_SIZE[entry.dtype]
        read_bytes(self._handle(entry.file), offset, raw, entry.file)
        if raw is not into:
            into.copy_(raw)

    def read_delta(self, name: str, start: int, into: Tensor) -> bool:
        """Plain weights have no delta."""
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
        buffer = getattr(self._scratch, "bytes", None)
        if buffer is None or buffer.numel() < nbytes:
            buffer = self._scratch.bytes = torch.empty(nbytes, dtype=torch.uint8)
        view: Tensor = buffer[:nbytes].view(dtype)
        return view


def read_bytes(handle: int, offset: int, into: Tensor, file: Path) -> None:
    """Fills a flat tensor with a file's bytes from `offset` on; raises StockpotError if the file ends too early."""
    import torch

    view = into.view(torch.uint8).numpy().data
    done = 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], offset + done)
        if count == 0:
            raise StockpotError(
                f"{file} ended at byte {offset + done:,} while it was read: it was truncated or replaced."
            )
        done += count


class MemorySource:
    """A state dict. A tensor with several names is read under each of them; nothing is ever written to it."""

    is_adapter = False

    def __init__(self, state: Mapping[str, Tensor], label: str, files: tuple[FileFacts, ...] = ()) -> None:
        import torch

        names = {name: short for short, name in TORCH_NAMES.items()}
        self.label = label
        self.files = files
        self._state: dict[str, Tensor] = {}
        tensors: dict[str, TensorInfo] = {}
        for name, tensor in state.items():
            if not isinstance(name, str) or not name.isprintable() or name == "__metadata__":
                raise StockpotError(f"{label}: a safetensors file cannot hold a tensor named {name!r}.")
            if not isinstance(tensor, torch.Tensor):
                raise StockpotError(f"{label}: '{name}' is not a tensor but a {type(tensor).__name__}.")
            short = names.get(str(tensor.dtype).removeprefix("torch."))
            if short is None:
                known = ", ".join(TORCH_NAMES.values())
                raise StockpotError(
                    f"{label}: tensor '{name}' has the type {tensor.dtype}, which is not supported. Supported: {known}."
                )
            if tensor.layout != torch.strided:
                raise StockpotError(f"{label}: tensor '{name}' is {tensor.layout}; only dense tensors are merged.")
            self._state[name] = tensor.detach()
            tensors[name] = MemoryTensorInfo(short, tuple(tensor.shape))
        self.tensors: Mapping[str, TensorInfo] = tensors

    def read(self, name: str, start: int, into: Tensor) -> None:
        """Fills the flat `into`, converting to its type, with the elements from `start` on."""
        into.copy_(self._state[name].reshape(-1)[start : start + into.numel()])

    def read_delta(self, name: str, start: int, into: Tensor) -> bool:
        """Plain weights have no delta."""
        return False

    def close(self) -> None:
        """Does nothing: no file is open."""
