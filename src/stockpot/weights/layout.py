"""Where every tensor of a checkpoint lies: headers and indexes, read without torch and trusted for nothing.

A safetensors file is an 8-byte length, a JSON header of that length, and the tensors' bytes one after the other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError

# Bytes of one element.
ITEM_SIZE: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
CONVERT = (
    "load it once with the library that wrote it and save it with "
    "`save_pretrained(folder)` or `safetensors.torch.save_file`"
)
# A header of this size lists a quarter of a million tensors; parsing a longer one would cost memory without bound.
_LONGEST_HEADER = 32 << 20
# From this size on a typed parser looks first: untyped JSON of `[[],[],[]…` takes twenty times its size in memory.
_CHECK_TYPES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its type, its shape, and the bytes [offset, offset + nbytes) of its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of elements; 1 without dimensions."""
        return math.prod(self.shape)


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
    entries: Mapping[str, Entry]
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
    heads: dict[Path, list[Entry]] = {}
    facts = []
    for file in dict.fromkeys(shards.values()) if isinstance(shards, dict) else [shards]:
        heads[file], found = read_header(file)
        facts.append(found)
    listed = [entry for entries in heads.values() for entry in entries]
    if isinstance(shards, dict):
        held = {file: {entry.name for entry in entries} for file, entries in heads.items()}
        for name, file in shards.items():
            if name not in held[file]:
                index = path / f"{stem}.safetensors.index.json"
                raise StockpotError(f"{index} says that {file.name} holds tensor '{name}', which it does not.")
        listed = [entry for entry in listed if shards.get(entry.name) == entry.file]
    return Layout(path, {entry.name: entry for entry in listed}, tuple(facts))


def files_of(path: Path, stem: str = "model") -> Path | dict[str, Path]:
    """The one file that holds a checkpoint, or the index's map from tensor names to files; see `read_layout`."""
    if path.is_dir():
        if (path / f"{stem}.safetensors").is_file():
            return _inside(path, path / f"{stem}.safetensors")
        if (index := path / f"{stem}.safetensors.index.json").is_file():
            return _sharded(path, index)
        raise StockpotError(f"{path} holds no {stem}.safetensors and no {index.name}{_instead(path)}")
    if not path.is_file():
        raise StockpotError(f"{path} does not exist; give a .safetensors file, or a folder with {stem}.safetensors.")
    if path.suffix in PICKLES:
        raise StockpotError(f"{path} is not a safetensors file, and a pickle is never loaded here; {CONVERT}.")
    return path


def read_header(file: Path) -> tuple[list[Entry], FileFacts]:
    """The tensors of one safetensors file in the order of their bytes; raises StockpotError where it is not whole.

    Refused: a header longer than 32 MiB or than the file, a key that stands twice, a type that is not known, offsets
    that overlap, leave a gap, leave the file, or do not fit type and shape.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        raw = handle.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else -1
        if not 2 <= length <= size - 8:
            raise _damaged(file, f"its header should be {length:,} bytes long" if length >= 0 else "it has no header")
        if length > _LONGEST_HEADER:
            raise _damaged(file, f"its header of {length:,} bytes is longer than {_LONGEST_HEADER:,}")
        text = handle.read(length)
    if length > _CHECK_TYPES:
        _check_types(file)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("__metadata__ should be texts")
        entries = [_entry(file, name, facts, 8 + length) for name, facts in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(file, str(error) if isinstance(error, ValueError) else repr(error)) from error
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
    return StockpotError(f"{file} is not a whole safetensors file (truncated or damaged): {why}.")


def _check_types(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in its header")
    return found


def _entry(file: Path, name: str, facts: dict[str, Any], start: int) -> Entry:
    if set(facts) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} has the keys {sorted(facts)}, not dtype, shape and data_offsets")
    dtype, shape, (first, last) = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise ValueError(f"tensor {name!r} has the type {dtype!r}, which is none of {', '.join(ITEM_SIZE)}")
    if not isinstance(shape, list) or not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise ValueError(f"tensor {name!r} has the shape {shape!r} and the bytes {first!r} to {last!r}")
    nbytes = math.prod(shape) * ITEM_SIZE[dtype]
    if last - first != nbytes:
        raise ValueError(f"tensor {name!r} of {dtype} {shape} has {last - first:,} bytes, not {nbytes:,}")
    return Entry(name, dtype, tuple(shape), file, start + first, nbytes)


def _instead(folder: Path) -> str:
    if (folder / "adapter_model.safetensors").is_file():
        return ": it is an adapter; merge it into its base model first (`merge_and_unload`) and save that."
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        return f", only {pickles[0]}, and a pickle is never loaded here; {CONVERT}."
    others = sorted(folder.glob("*.safetensors"))
    return f"; name the file itself, for example {others[0]}." if others else "."


def read_index(index: Path) -> dict[str, str]:
    """An index's map from tensor names to file names, as it stands there: neither is trusted yet."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_once)["weight_map"]
        return {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StockpotError(f"{index} is not an index of model files: {error!r}") from error


def _sharded(folder: Path, index: Path) -> dict[str, Path]:
    weight_map = read_index(index)
    for shard in dict.fromkeys(weight_map.values()):
        plain_file(folder, index, shard)
        if not shard.endswith(".safetensors"):
            raise StockpotError(f"{index} names the file {shard!r}, which is not a safetensors file.")
    return {name: folder / shard for name, shard in weight_map.items()}


def plain_file(folder: Path, index: Path, name: str) -> Path:
    """The file that an index names; an index comes from elsewhere, so plain files of its own folder only."""
    if Path(name).name != name or "\\" in name or name in {"", ".", ".."} or "\0" in name:
        raise StockpotError(f"{index} names the file {name!r}: only plain file names are read, nothing outside.")
    if not (folder / name).exists() and not (folder / name).is_symlink():
        raise StockpotError(f"{index} names {name}, which is missing from {folder}.")
    return _inside(folder, folder / name)


def _inside(folder: Path, file: Path) -> Path:
    home, target = folder.resolve(), file.resolve()
    # The hub's cache links snapshots/REVISION/file to blobs/HASH of the same repository.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if target.parent not in (home, blobs):
        raise StockpotError(f"{file} is a link out of its folder, to {target}: not read.")
    if not target.is_file():
        raise StockpotError(f"{file} is not a file.")
    return file
