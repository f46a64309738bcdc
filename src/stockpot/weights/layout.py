"""Where every tensor of a checkpoint is stored: headers and indexes, read without torch and never trusted.

A safetensors file is an 8-byte length, a JSON header of that length, and the tensors' bytes one after the other.

Why not `safetensors.safe_open`? It does not say at which byte a tensor starts, which merging needs to read and write
files in pieces; it silently keeps one of two equal keys, and readers differ in which; and it needs torch or NumPy,
which a command that only looks at a header should not wait for. Headers are checked against the file's size, so that
every later reader finds the same tensor under the same name.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import operator
import os
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError
from stockpot.weights.bounded_json import members, parse_value, string_members

# Bytes of one element.
ITEM_SIZE: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
CONVERT = (
    "load it once with the library that wrote it and save it with "
    "`save_pretrained(folder)` or `safetensors.torch.save_file`"
)
_MAX_BYTES = 16 << 20  # of a header or an index: room for 150,000 tensors
_MAX_NAME = 1000  # characters of a tensor's name
_MAX_FILE_NAME = 255  # bytes


class TensorExtent:
    """How large a tensor is, by its dtype and shape."""

    __slots__ = ()
    dtype: str  # its safetensors name
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements; 1 without dimensions."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.numel * ITEM_SIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorEntry(TensorExtent):
    """One tensor: its dtype, its shape, and the bytes [offset, offset + nbytes) of its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One safetensors file: its size in bytes, its header's SHA-256, the header's text metadata."""

    file: Path
    nbytes: int
    header_sha256: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """All tensors of a checkpoint in file order, and the files that hold them."""

    path: Path
    entries: Mapping[str, TensorEntry]
    files: tuple[FileFacts, ...]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries.values())


def read_layout(path: str | os.PathLike[str], stem: str = "model") -> Layout:
    """The layout of a `.safetensors` file, or of a folder with `STEM.safetensors` or `STEM.safetensors.index.json`.

    Raises:
        StockpotError: if there is nothing to read, or only pickles; for a damaged file, and for an index that names a
            file outside its own folder.
    """
    path = Path(path)
    shards = files_of(path, stem)
    entries: list[TensorEntry] = []
    files = []
    for file in dict.fromkeys(shards.values()) if isinstance(shards, dict) else [shards]:
        file_entries, facts = read_header(file)
        entries += file_entries
        files.append(facts)
    if isinstance(shards, dict):
        _same_tensors(path / f"{stem}.safetensors.index.json", shards, entries)
    return Layout(path, {entry.name: entry for entry in entries}, tuple(files))


def files_of(path: Path, stem: str = "model") -> Path | dict[str, Path]:
    """The one file that holds a checkpoint, or the index's map from tensor names to files; see `read_layout`."""
    single, index = path / f"{stem}.safetensors", path / f"{stem}.safetensors.index.json"
    with _readable(path):
        if path.is_dir():
            if os.path.lexists(single):
                return require_inside(path, single)
            if os.path.lexists(index):
                return _sharded(path, index)
            raise StockpotError(f"{path} holds neither {single.name} nor {index.name}{_instead(path)}")
        if not path.is_file():
            why = "is not a file" if path.exists() else "does not exist"
            raise StockpotError(f"{path} {why}; give a .safetensors file, or a folder with {single.name}.")
    if path.suffix in PICKLE_SUFFIXES:
        raise StockpotError(f"{path} is not a safetensors file, and a pickle is never loaded here; {CONVERT}.")
    return path


def read_header(file: Path) -> tuple[list[TensorEntry], FileFacts]:
    """The tensors of one safetensors file in the order of their bytes, and what else its header says.

    Raises:
        StockpotError: for a header longer than 16 MiB or than the file, a key that appears twice, an unsupported dtype,
            offsets that overlap, leave gaps, exceed the file or contradict dtype and shape, and a name that cannot be
            printed in one line.
    """
    with _readable(file), file.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        raw = handle.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else -1
        if not 2 <= length <= size - 8:
            raise _damaged(file, f"its header should be {length:,} bytes long" if length >= 0 else "it has no header")
        if length > _MAX_BYTES:
            raise _damaged(file, f"its header of {length:,} bytes is longer than {_MAX_BYTES:,}")
        text = handle.read(length)
    metadata: dict[str, str] = {}
    entries = []
    try:
        for name, value in members(text.decode("utf-8")):
            if name == "__metadata__":
                metadata = string_members(value)
            else:
                entries.append(_entry(file, name, parse_value(value), 8 + length))
    except StockpotError:  # an unsupported dtype is not damage
        raise
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
    end = 8 + length
    for entry in entries:
        if entry.offset != end:
            raise _damaged(file, f"tensor '{entry.name}' starts at byte {entry.offset:,} instead of {end:,}")
        end += entry.nbytes
    if end != size:
        raise _damaged(file, f"it has {size:,} bytes, its header describes {end:,}")
    return entries, FileFacts(file, size, hashlib.sha256(text).hexdigest(), metadata)


def _damaged(file: Path, why: str) -> StockpotError:
    return StockpotError(f"{file} is not a whole safetensors file (truncated or damaged): {_short(why)}.")


def _short(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:500]}…"


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StockpotError(f"{error.filename or path} cannot be read: {error.strerror}.") from error


def _entry(file: Path, name: str, facts: Any, start: int) -> TensorEntry:
    if not name.isprintable() or len(name) > _MAX_NAME:
        raise ValueError(f"the tensor name {name[:40]!r} is not a line of at most {_MAX_NAME:,} characters")
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor '{name}' should have the keys dtype, shape and data_offsets, and has {facts!r}")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str):
        raise ValueError(f"tensor '{name}' has the type {dtype!r}")
    if dtype not in ITEM_SIZE:
        raise StockpotError(
            f"{file}: tensor '{name}' has the type {_short(repr(dtype))}, which is not supported here; "
            f"supported are {', '.join(ITEM_SIZE)}. Save it in one of these first."
        )
    if not _are_integers(shape) or _overflows(shape):
        raise ValueError(f"tensor '{name}' has the shape {shape!r}")
    if not _are_integers(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor '{name}' has the data_offsets {offsets!r}")
    nbytes, stored = math.prod(shape) * ITEM_SIZE[dtype], offsets[1] - offsets[0]
    if stored != nbytes:
        raise ValueError(f"tensor '{name}' of {dtype} {shape} has {stored:,} bytes, not {nbytes:,}")
    # Interned: models that are merged share their names, and many tensors their shapes.
    return TensorEntry(sys.intern(name), sys.intern(dtype), _interned(tuple(shape)), file, start + offsets[0])


@lru_cache(maxsize=1024)
def _interned(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def _are_integers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _overflows(shape: list[int]) -> bool:
    """Whether any product of leading sizes leaves 63 bits, as in readers that multiply in C; 0 counts as 1."""
    return any(count >= 1 << 63 for count in accumulate((max(1, size) for size in shape), operator.mul))


def _instead(folder: Path) -> str:
    if (folder / "adapter_model.safetensors").is_file():
        return ": it is an adapter; `stockpot merge linear ADAPTER -o FOLDER` merges it into its base model."
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        return f", only {pickles[0]}, and a pickle is never loaded here; {CONVERT}."
    others = sorted(folder.glob("*.safetensors"))
    return f"; name the file itself, for example {others[0]}." if others else "."


def read_index(index: Path) -> dict[str, str]:
    """An index's map from tensor names to file names, as written: neither is trusted yet."""
    with _readable(index), require_inside(index.parent, index).open("rb") as handle:
        text = handle.read(_MAX_BYTES + 1)
    try:
        if len(text) > _MAX_BYTES:
            raise ValueError(f"it is longer than {_MAX_BYTES:,} bytes")
        index_members = dict(members(text.decode("utf-8")))
        if "weight_map" not in index_members:
            raise ValueError("it has no weight_map")
        return string_members(index_members["weight_map"])
    except (ValueError, RecursionError) as error:
        raise StockpotError(f"{index} is not an index of model files: {_short(str(error))}.") from error


def _sharded(folder: Path, index: Path) -> dict[str, Path]:
    weight_map = read_index(index)
    files = {shard: indexed_file(folder, index, shard) for shard in dict.fromkeys(weight_map.values())}
    for shard in files:
        if not shard.endswith(".safetensors"):
            raise StockpotError(f"{index} names the file {shard!r}, which is not a safetensors file.")
    return {name: files[shard] for name, shard in weight_map.items()}


def _same_tensors(index: Path, shards: Mapping[str, Path], entries: Sequence[TensorEntry]) -> None:
    stored = {(entry.name, entry.file) for entry in entries}
    for name, file in shards.items():
        if (name, file) not in stored:
            raise StockpotError(f"{index} says that {file.name} holds tensor {_short(repr(name))}, which it does not.")
    # Dropping it would silently lose a weight: some readers follow the index, others load all that a file holds.
    for name, file in sorted(stored - shards.items()):
        raise StockpotError(f"{file} holds tensor {name!r}, which {index.name} does not place there; fix the index.")


def indexed_file(folder: Path, index: Path, name: str) -> Path:
    """The file that an index names: only a plain file in the index's own folder, since an index is not trusted."""
    plain = name.isprintable() and not {"/", "\\"} & {*name} and name not in {"", ".", ".."}
    if not plain or len(name.encode()) > _MAX_FILE_NAME:
        raise StockpotError(
            f"{index} names the file {_short(repr(name))}: only plain file names are read, nothing outside."
        )
    if not os.path.lexists(folder / name):
        raise StockpotError(f"{index} names {name}, which is missing from {folder}.")
    return require_inside(folder, folder / name)


def require_inside(folder: Path, file: Path) -> Path:
    """The file, which is in `folder` or below; raises StockpotError for a link that leads elsewhere, or to no file."""
    home, target = (Path(os.path.realpath(path)) for path in (folder, file))
    place = home / file.relative_to(folder).parent
    # The hub's cache links snapshots/REVISION/file to blobs/HASH of the same repository.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else place
    if target.parent not in (place, blobs):
        raise StockpotError(f"{file} is a link out of its folder, to {str(target)!r}; it is not read.")
    if not target.is_file():
        raise StockpotError(f"{file} is not a file.")
    return file
