"""Safetensors written as they are computed: every offset is known before the first byte."""

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
    """A tensor to be written: its type by its safetensors name, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def header_of(slots: Sequence[Slot | Target], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and how far behind them each tensor begins; the widest types first: all are aligned."""
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
    """One output file: room for all of it is taken when it is opened, pieces are written wherever they belong.

    `sums` are place, length in bytes and CRC-32 of one piece after the other, where `checked`.
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
            take_room(self._handle, self.nbytes)  # a full disk is noticed here, before the work
        except BaseException:
            os.close(self._handle)
            raise
        self._put(memoryview(head), 0)

    def write(self, name: str, start: int, flat: Tensor) -> None:
        """Writes the elements from `start` on of a tensor; from any thread."""
        import torch

        place = self._start + self._offsets[name] + start * flat.element_size()
        self._put(flat.view(torch.uint8).numpy().data, place)

    def _put(self, data: memoryview, place: int) -> None:
        if self.checked:
            crc = zlib.crc32(data)
            with self._lock:
                self.sums.extend((place, len(data), crc))
        done = 0
        while done < len(data):
            done += os.pwrite(self._handle, data[done:], place + done)

    def close(self, sync: bool) -> None:
        """Closes the file; with `sync` once it is on the disk."""
        try:
            if sync:
                os.fsync(self._handle)
        finally:
            os.close(self._handle)


def take_room(handle: int, nbytes: int) -> None:
    """Makes a file that long, and where system and file system can, takes its room on the disk at once."""
    try:
        os.posix_fallocate(handle, 0, nbytes)
    except (AttributeError, OSError) as error:  # macOS has no such call, some network file systems do not know it
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(handle, nbytes)


def verify_shard(path: Path, sums: Sequence[int], sync: bool) -> None:
    """Reads a written file again, its header too; raises StockpotError where it is not what was written.

    What was synced is read from the disk, not from the memory that it was written from.
    """
    with path.open("rb", buffering=0) as file:
        if sync and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = memoryview(bytearray(_READ))
        for place, length, expected in zip(*[iter(sums)] * 3, strict=True):
            file.seek(place)
            crc, left = 0, length
            while left and (count := file.readinto(buffer[: min(left, _READ)])):
                crc = zlib.crc32(buffer[:count], crc)
                left -= count
            if left or crc != expected:
                raise StockpotError(f"{path}: {_at(path, place)} is not as written: is the disk sound?")


def _at(path: Path, place: int) -> str:
    """What lies at a place of a file."""
    with contextlib.suppress(StockpotError):
        for entry in read_header(path)[0] if place else ():
            if entry.offset <= place < entry.offset + entry.nbytes:
                return f"tensor '{entry.name}'"
    return "the header"
