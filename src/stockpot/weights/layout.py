"""Where every tensor of a checkpoint lies: headers and indexes, read without torch and trusted for nothing.

A safetensors file is an 8-byte length, a JSON header of that length, and the tensors' bytes one after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import operator
import os
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError

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
# Of a header or an index: room for 150,000 tensors.
_LONGEST = 16 << 20
# Of a JSON value, no text, that is read at once.
_LONGEST_VALUE = 1 << 20
_LONGEST_NAME = 1000
_LONGEST_FILE_NAME = 255
# The members of a JSON object: a text, and a text, a word or an object without objects in it.
_SPACE, _TEXT = r"[ \t\r\n]*+", r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_OBJECT = rf'\{{[^{{}}"]*+(?:{_TEXT}[^{{}}"]*+)*+\}}'
_START = re.compile(rf"\{{{_SPACE}(\}}?)")
_MEMBER = re.compile(rf"{_SPACE}({_TEXT}){_SPACE}:{_SPACE}({_TEXT}|[\w.+-]++|{_OBJECT}){_SPACE}([,}}])")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: its type, its shape, and the bytes [offset, offset + nbytes) of its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def numel(self) -> int:
        """Number of elements; 1 without dimensions."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.numel * ITEM_SIZE[self.dtype]


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

    Raises StockpotError where there is nothing to read, only pickles, a damaged file, or an index that names a file
    outside its own folder.
    """
    path = Path(path)
    shards = files_of(path, stem)
    heads: list[TensorEntry] = []
    facts = []
    for file in dict.fromkeys(shards.values()) if isinstance(shards, dict) else [shards]:
        entries, found = read_header(file)
        heads += entries
        facts.append(found)
    if isinstance(shards, dict):
        _same_tensors(path / f"{stem}.safetensors.index.json", shards, heads)
    return Layout(path, {entry.name: entry for entry in heads}, tuple(facts))


def files_of(path: Path, stem: str = "model") -> Path | dict[str, Path]:
    """The one file that holds a checkpoint, or the index's map from tensor names to files; see `read_layout`."""
    single, index = path / f"{stem}.safetensors", path / f"{stem}.safetensors.index.json"
    with _readable(path):
        if path.is_dir():
            if os.path.lexists(single):
                return require_inside(path, single)
            if os.path.lexists(index):
                return _sharded(path, index)
            raise StockpotError(f"{path} holds no {single.name} and no {index.name}{_instead(path)}")
        if not path.is_file():
            why = "is not a file" if path.exists() else "does not exist"
            raise StockpotError(f"{path} {why}; give a .safetensors file, or a folder with {single.name}.")
    if path.suffix in PICKLE_SUFFIXES:
        raise StockpotError(f"{path} is not a safetensors file, and a pickle is never loaded here; {CONVERT}.")
    return path


def read_header(file: Path) -> tuple[list[TensorEntry], FileFacts]:
    """The tensors of one safetensors file in the order of their bytes; raises StockpotError where it is not whole.

    Refused: a header longer than 16 MiB or than the file, a key that stands twice, a type that is not supported,
    offsets that overlap, leave a gap, leave the file, or do not fit type and shape, a name that cannot be printed in
    one line.
    """
    with _readable(file), file.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        raw = handle.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else -1
        if not 2 <= length <= size - 8:
            raise _damaged(file, f"its header should be {length:,} bytes long" if length >= 0 else "it has no header")
        if length > _LONGEST:
            raise _damaged(file, f"its header of {length:,} bytes is longer than {_LONGEST:,}")
        text = handle.read(length)
    metadata: dict[str, str] = {}
    entries = []
    try:
        for name, value in _members(text.decode("utf-8")):
            if name == "__metadata__":
                metadata = _texts(value)
            else:
                entries.append(_entry(file, name, _decoded(value), 8 + length))
    except StockpotError:  # a type that is not supported is not damage
        raise
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
    end = 8 + length
    for entry in entries:
        if entry.offset != end:
            raise _damaged(file, f"tensor '{entry.name}' begins at byte {entry.offset:,}, and should at {end:,}")
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


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Name and JSON of every member of a JSON object, in order; raises ValueError, also for a name that stands twice.

    Python's parser takes thirty times the size of `{"a":[[],[],…` in memory before a type can be checked: so it is
    given one member at a time.
    """
    names: set[str] = set()
    start = _START.match(text)
    place, ended = (start.end(), bool(start[1])) if start else (0, False)
    while not ended:
        found = _MEMBER.match(text, place) if place else None
        if found is None:
            raise ValueError(f"no JSON object of texts, numbers and flat objects: {text[place : place + 40]!r}")
        name = _decoded(found[1])
        if name in names:
            raise ValueError(f"the key {name!r} stands twice")
        names.add(name)
        yield name, found[2]
        place, ended = found.end(), found[3] == "}"
    if text[place:].strip(" \t\r\n"):
        raise ValueError(f"after its end stands {text[place : place + 40]!r}")


def _decoded(text: str) -> Any:
    if len(text) > _LONGEST_VALUE and text[0] != '"':
        raise ValueError(f"{text[:40]!r}… is longer than {_LONGEST_VALUE:,} characters")
    return _DECODER.decode(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} stands twice")
        found[name] = value
    return found


def _whole(digits: str) -> int | float:
    """A number as sizes and places may have it; all others become floats, which they may not be."""
    return int(digits) if digits.isdigit() and len(digits) < 19 else float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)


def _texts(text: str) -> dict[str, str]:
    found = {name: _decoded(value) for name, value in _members(text)}
    for name, value in found.items():
        if not isinstance(value, str):
            raise ValueError(f"{name!r} should be a text, not {value!r}")
        f"{name}{value}".encode()  # refuses halves of surrogate pairs
    return found


def _entry(file: Path, name: str, facts: Any, start: int) -> TensorEntry:
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError(f"the tensor name {name[:40]!r} is not a line of at most {_LONGEST_NAME:,} characters")
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
    if not _wholes(shape) or any(count >= 1 << 63 for count in accumulate((max(1, n) for n in shape), operator.mul)):
        raise ValueError(f"tensor '{name}' has the shape {shape!r}")
    if not _wholes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor '{name}' has the data_offsets {offsets!r}")
    nbytes, held = math.prod(shape) * ITEM_SIZE[dtype], offsets[1] - offsets[0]
    if held != nbytes:
        raise ValueError(f"tensor '{name}' of {dtype} {shape} has {held:,} bytes, not {nbytes:,}")
    # Models that are merged have the same names, and tensors the same shapes: kept once.
    return TensorEntry(sys.intern(name), sys.intern(dtype), _kept_once(tuple(shape)), file, start + offsets[0])


@lru_cache(maxsize=1024)
def _kept_once(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def _wholes(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int for number in numbers)


def _instead(folder: Path) -> str:
    if (folder / "adapter_model.safetensors").is_file():
        return ": it is an adapter; `stockpot merge linear ADAPTER -o FOLDER` merges it into its base model."
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        return f", only {pickles[0]}, and a pickle is never loaded here; {CONVERT}."
    others = sorted(folder.glob("*.safetensors"))
    return f"; name the file itself, for example {others[0]}." if others else "."


def read_index(index: Path) -> dict[str, str]:
    """An index's map from tensor names to file names, as it stands there: neither is trusted yet."""
    with _readable(index), require_inside(index.parent, index).open("rb") as handle:
        text = handle.read(_LONGEST + 1)
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it is longer than {_LONGEST:,} bytes")
        found = dict(_members(text.decode("utf-8")))
        if "weight_map" not in found:
            raise ValueError("it has no weight_map")
        return _texts(found["weight_map"])
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
    held = {(entry.name, entry.file) for entry in entries}
    for name, file in shards.items():
        if (name, file) not in held:
            raise StockpotError(f"{index} says that {file.name} holds tensor {_short(repr(name))}, which it does not.")
    # Dropping it would lose a weight in silence: some readers follow the index, others load all that a file holds.
    for name, file in sorted(held - shards.items()):
        raise StockpotError(f"{file} holds tensor {name!r}, which {index.name} does not place there; mend the index.")


def indexed_file(folder: Path, index: Path, name: str) -> Path:
    """The file that an index names; an index comes from elsewhere, so plain files of its own folder only."""
    plain = name.isprintable() and not {"/", "\\"} & {*name} and name not in {"", ".", ".."}
    if not plain or len(name.encode()) > _LONGEST_FILE_NAME:
        raise StockpotError(
            f"{index} names the file {_short(repr(name))}: only plain file names are read, nothing outside."
        )
    if not os.path.lexists(folder / name):
        raise StockpotError(f"{index} names {name}, which is missing from {folder}.")
    return require_inside(folder, folder / name)


def require_inside(folder: Path, file: Path) -> Path:
    """The file, which lies in `folder` or below; raises StockpotError where a link leads elsewhere, or to no file."""
    home, target = (Path(os.path.realpath(path)) for path in (folder, file))
    place = home / file.relative_to(folder).parent
    # The hub's cache links snapshots/REVISION/file to blobs/HASH of the same repository.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else place
    if target.parent not in (place, blobs):
        raise StockpotError(f"{file} is a link out of its folder, to {str(target)!r}: not read.")
    if not target.is_file():
        raise StockpotError(f"{file} is not a file.")
    return file
