"""Safetensors files written as tensors are computed: every offset is known before the first byte is written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import threading
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.weights.layout import ITEM_SIZE, read_header

if TYPE_CHECKING:
    from torch import Tensor

    from stockpot.merging.plan.merge_plan import Target

_READ = 4 << 20


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor to be written; `dtype` is its type's safetensors name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def header_of(slots: Sequence[Slot | Target], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The header's bytes, and each tensor's offset after them. The widest types come first, so that all are aligned."""
    text = bytearray(f'{{"__metadata__":{_json(dict(metadata))}'.encode())
    offsets, end = {}, 0
    for slot in sorted(slots, key=lambda slot: -ITEM_SIZE[slot.dtype]):
        facts = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [end, end + slot.nbytes]}
        text += f",{_json(slot.name)}:{_json(facts)}".encode()
        offsets[slot.name] = end
        end += slot.nbytes
    text += b"}"
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offsets


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass
class ShardFile:
    """One output file: disk space for all of it is reserved when it is opened, then pieces are written in any order.

    With `checked`, `sums` holds offset, length in bytes and CRC-32 of each piece, one after the other.
    """

    path: Path
    slots: Sequence[Slot | Target]
    metadata: Mapping[str, str]
    checked: bool
    sums: array[int] = field(default_factory=lambda: array("Q"))

    def __post_init__(self) -> None:
        head, self._offsets = header_of(self.slots, self.metadata)
        self._start, self._lock = len(head), threading.Lock()
        self.nbytes = self._start + sum(slot.nbytes for slot in self.slots)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            reserve(self._handle, self.nbytes)  # a full disk is noticed here, before the work
        except BaseException:
            os.close(self._handle)
            raise
        self._put(memoryview(head), 0)

    def write(self, name: str, start: int, flat: Tensor) -> None:
        """Writes elements of a tensor, from index `start` on; may be called from any thread."""
        import torch

        offset = self._start + self._offsets[name] + start * flat.element_size()
        self._put(flat.view(torch.uint8).numpy().data, offset)

    def _put(self, data: memoryview, offset: int) -> None:
        if self.checked:
            crc = zlib.crc32(data)
            with self._lock:
                self.sums.extend((offset, len(data), crc))
        done = 0
        while done < len(data):
            done += os.pwrite(self._handle, data[done:], offset + done)

    def close(self, sync: bool) -> None:
        """Closes the file; with `sync`, waits first until it is on the disk."""
        try:
            if sync:
                os.fsync(self._handle)
        finally:
            os.close(self._handle)


def reserve(handle: int, nbytes: int) -> None:
    """Gives a file its final length and, if the file system supports it, reserves its disk space."""
    try:
        os.posix_fallocate(handle, 0, nbytes)
    except (AttributeError, OSError) as error:  # missing on macOS, not supported by some network file systems
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(handle, nbytes)


def verify_shard(path: Path, sums: Sequence[int], sync: bool) -> None:
    """Reads a written file back, header included; raises StockpotError if it is not what was written.

    With `sync` the page cache is dropped first, so that the bytes come from the disk.
    """
    with path.open("rb", buffering=0) as file:
        if sync and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = memoryview(bytearray(_READ))
        for offset, length, expected in zip(*[iter(sums)] * 3, strict=True):
            file.seek(offset)
            crc, left = 0, length
            while left and (count := file.readinto(buffer[: min(left, _READ)])):
                crc = zlib.crc32(buffer[:count], crc)
                left -= count
            if left or crc != expected:
                raise StockpotError(
                    f"{path}: {_content_at(path, offset)} differs from what was written: is the disk failing?"
                )


def _content_at(path: Path, offset: int) -> str:
    """What lies at an offset of a file: a tensor, or the header."""
    with contextlib.suppress(StockpotError):
        for entry in read_header(path)[0] if offset else ():
            if entry.offset <= offset < entry.offset + entry.nbytes:
                return f"tensor '{entry.name}'"
    return "the header"
