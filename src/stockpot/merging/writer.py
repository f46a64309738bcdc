"""Safetensors written as they are computed: every offset is known before the first byte."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.weights.layout import ITEM_SIZE, read_header

if TYPE_CHECKING:
    from torch import Tensor

_READ = 4 << 20


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor to be written: its type by its safetensors name, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def header_of(slots: Sequence[Slot], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and where in it each tensor begins; the widest types first, so that all are aligned."""
    described = [f'"__metadata__":{_json(dict(metadata))}']
    offsets, end = {}, 0
    for slot in sorted(slots, key=lambda slot: -ITEM_SIZE[slot.dtype]):
        facts = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [end, end + slot.nbytes]}
        described.append(f"{_json(slot.name)}:{_json(facts)}")
        offsets[slot.name] = end
        end += slot.nbytes
    text = f"{{{','.join(described)}}}".encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return struct.pack("<Q", len(text)) + text, {name: start + offset for name, offset in offsets.items()}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass
class ShardFile:
    """One output file: room for all of it is taken when it is opened, pieces are written wherever they belong.

    `sums` are the CRC-32 of every piece, by place and length in bytes, where `checked`.
    """

    path: Path
    slots: Sequence[Slot]
    metadata: Mapping[str, str]
    checked: bool
    sums: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        head, self._places = header_of(self.slots, self.metadata)
        self.nbytes = len(head) + sum(slot.nbytes for slot in self.slots)
        self._sizes = {slot.name: ITEM_SIZE[slot.dtype] for slot in self.slots}
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

        self._put(flat.view(torch.uint8).numpy().data, self._places[name] + start * self._sizes[name])

    def _put(self, data: memoryview, place: int) -> None:
        if self.checked:
            self.sums[place] = (len(data), zlib.crc32(data))
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


def verify_shard(path: Path, sums: Mapping[int, tuple[int, int]], slots: Sequence[Slot], sync: bool) -> None:
    """Reads a written file again; raises StockpotError where it is not what was written.

    What was synced is read from the disk, not from the memory that it was written from.
    """
    entries, _ = read_header(path)
    found = {entry.name: entry for entry in entries}
    if len(entries) != len(slots) or not all(
        (entry := found.get(slot.name)) and (entry.dtype, entry.shape) == (slot.dtype, slot.shape) for slot in slots
    ):
        raise StockpotError(f"{path}: its header is not the one that was written.")
    with path.open("rb", buffering=0) as file:
        if sync and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = memoryview(bytearray(_READ))
        for place, (length, expected) in sorted(sums.items()):
            file.seek(place)
            crc, left = 0, length
            while left and (count := file.readinto(buffer[: min(left, _READ)])):
                crc = zlib.crc32(buffer[:count], crc)
                left -= count
            if left or crc != expected:
                names = [entry.name for entry in entries if entry.offset <= place < entry.offset + entry.nbytes]
                raise StockpotError(f"{path}: {names[0] if names else 'header'} is not as written: is the disk sound?")
