"""Mutates valid safetensors files and indexes: each must be refused in one line, or read as the library reads it.

    python benchmarks/merge/fuzz_headers.py --seconds 120 --seed 0

Asserts that nothing but StockpotError is raised, in one printable line; that a file that is read has the same names,
types, shapes and bytes for the safetensors library; that no file outside the folder is opened; and that memory stays
bounded. A file that fails is kept in the folder that is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open

from stockpot import StockpotError
from stockpot.weights.layout import ITEM_SIZE, Layout, read_layout

MEMORY = 100  # MB above what the imports take
TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"\\n", b"\n", b" ", b"\0", b"\xff",
    b"\xef\xbb\xbf", b"null", b"true", b"NaN", b"-0", b"-1", b"0", b"1", b"4", b"1e0", b"1.0", b"9223372036854775807",
    b"18446744073709551616", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"[],[]," * 50_000, b'"ab",' * 50_000,
    b'"dtype":"F32",', b'"shape":[],', b'"data_offsets":[0,4],', b'"a":', b'"__metadata__":{"a":"b"},', b"../",
    b"/etc/passwd", b".safetensors", b"2.safetensors", b"link.safetensors", b"fifo.safetensors", b'"weight_map":{}',
    *(f'"{kind}"'.encode() for kind in (*ITEM_SIZE, "F4")),
]  # fmt: skip


NAMES = [
    "link.safetensors", "fifo.safetensors", "../secret.safetensors", "/etc/passwd", "..", "", "x" * 300, "\ud800",
    "a\0b", "model.safetensors.index.json", "..\\secret.safetensors", "2.safetensors",
]  # fmt: skip


def mutated(text: bytes, chance: random.Random) -> bytes:
    """Flips bits, inserts or overwrites with tokens, and removes, doubles or moves pieces."""
    result = bytearray(text)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        at = chance.randrange(len(result) + 1)
        to = min(len(result), at + chance.choice([0, 1, 2, 4, 8, 30]))
        match chance.randrange(6):
            case 0 if result:
                result[at % len(result)] ^= 1 << chance.randrange(8)
            case 1:
                result[at:to] = chance.choice(TOKENS)
            case 2:
                result[at:at] = chance.choice(TOKENS)
            case 3:
                del result[at:to]
            case 4:
                result[at:at] = result[at:to]
            case _:
                piece = result[at:to]
                del result[at:to]
                place = chance.randrange(len(result) + 1)
                result[place:place] = piece
    return bytes(result)


def valid_file(names: list[str], chance: random.Random) -> tuple[bytes, bytes]:
    """Header and data of a valid file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}} if chance.random() < 0.5 else {}
    end = 0
    for name in names:
        kind = chance.choice(list(ITEM_SIZE))
        shape = [chance.choice([0, 1, 2, 3]) for _ in range(chance.randrange(4))]
        nbytes = ITEM_SIZE[kind]
        for size in shape:
            nbytes *= size
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    return json.dumps(header, indent=chance.choice([None, None, 1])).encode(), chance.randbytes(end)


def assert_library_agrees(layout: Layout) -> None:
    """Asserts that the safetensors library reads the same tensors, at the same offsets."""
    for facts in layout.files:
        entries = {name: entry for name, entry in layout.entries.items() if entry.file == facts.file}
        data = facts.file.read_bytes()
        with safe_open(facts.file, framework="numpy") as library:
            assert set(library.keys()) == set(entries), f"{sorted(library.keys())} are not {sorted(entries)}"
            assert (library.metadata() or {}) == facts.metadata
            for name, entry in entries.items():
                piece = library.get_slice(name)
                assert (piece.get_dtype(), tuple(piece.get_shape())) == (entry.dtype, entry.shape), name
                if not entry.dtype.startswith(("F8", "BF16")):
                    assert library.get_tensor(name).tobytes() == data[entry.offset : entry.offset + entry.nbytes], name


class Fence:
    """While it is up, opening a file outside `folder` raises an error."""

    def __init__(self, folder: Path) -> None:
        self.home, self.up = str(folder), False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.up and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            place = os.path.realpath(os.fsdecode(arguments[0]))
            if not place.startswith(self.home + "/"):
                raise AssertionError(f"{place} was opened")


def one_file(folder: Path, chance: random.Random) -> Path:
    """A file whose header, length or data was changed."""
    header, data = valid_file(chance.sample(["a", "b.weight", "c", "ö", "../d"], chance.randrange(1, 5)), chance)
    if chance.random() < 0.9:
        header = mutated(header, chance)
    length = len(header) if chance.random() < 0.9 else chance.choice([0, 1, len(header) + 1, 2**60, 2**64 - 1])
    data = data if chance.random() < 0.9 else mutated(data, chance)
    whole = struct.pack("<Q", length) + header + data
    file = folder / "1.safetensors"
    file.write_bytes(whole if chance.random() < 0.9 else whole[: chance.randrange(len(whole))])
    return file


def one_index(folder: Path, chance: random.Random) -> Path:
    """A folder with two shards and an index in which something was changed."""
    shards = {"1.safetensors": ["a", "b"], "2.safetensors": ["c"]}
    for file, names in shards.items():
        header, data = valid_file(names, chance)
        (folder / file).write_bytes(struct.pack("<Q", len(header)) + header + data)
    index: dict[str, dict[str, object]] = {
        "metadata": {"total_size": 1},
        "weight_map": {name: file for file, names in shards.items() for name in names},
    }
    if exchanged := chance.random() < 0.3:
        index["weight_map"][chance.choice(["a", "b", "c", "d"])] = chance.choice(NAMES)
    text = json.dumps(index, indent=chance.choice([None, 1])).encode()
    (folder / "model.safetensors.index.json").write_bytes(text if exchanged else mutated(text, chance))
    return folder


def main() -> None:
    """Runs until the time is up; exits with 1 and prints the seed if an assertion fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    home = Path(os.path.realpath(tempfile.mkdtemp(prefix="fuzz-")))
    folder = home / "model"
    folder.mkdir()
    (home / "secret.safetensors").write_bytes(b"outside")
    (folder / "link.safetensors").symlink_to(home / "secret.safetensors")
    os.mkfifo(folder / "fifo.safetensors")
    fence, outcomes = Fence(folder), Counter[str]()
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    number = options.seed
    kinds: list[Callable[[Path, random.Random], Path]] = [one_file, one_index]
    while time.monotonic() - start < options.seconds:
        chance = random.Random(number)
        path = kinds[number % 2](folder, chance)
        try:
            fence.up = True
            try:
                layout = read_layout(path)
            except StockpotError as error:
                fence.up = False
                assert str(error).isprintable(), repr(str(error))
                assert len(str(error)) < 1500, str(error)
                outcomes[f"{kinds[number % 2].__name__} refused"] += 1
            else:
                fence.up = False
                assert_library_agrees(layout)
                outcomes[f"{kinds[number % 2].__name__} read"] += 1
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
            assert grown < MEMORY, f"memory has grown by {grown} MB"
        except BaseException:
            fence.up = False
            print(f"seed {number}: see {folder}", file=sys.stderr)
            raise
        number += 1
    shutil.rmtree(home)
    print(
        f"{sum(outcomes.values()):,} inputs, {dict(outcomes)}, memory grew by {grown} MB; continue with --seed {number}"
    )


if __name__ == "__main__":
    main()
