"""Any bytes as a header, any JSON as an index: refused in one line, or read as the safetensors library reads it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from safetensors import safe_open

from stockpot import StockpotError
from stockpot.weights.layout import ITEM_SIZE, read_layout

# The library's alone are larger lists of types; every number that could be an offset, and some that could not.
NUMBERS: SearchStrategy[Any] = st.integers(0, 12) | st.sampled_from(
    [-1, True, None, 0.0, 1.5, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**200, float("nan"), "1"]
)
NAMES = st.sampled_from(["a", "b", "c.weight", "", "__metadata__", "../x", "/x", "\\", "ö"]) | st.text(max_size=3)
ANY_JSON: SearchStrategy[Any] = st.recursive(
    NUMBERS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from([*ITEM_SIZE, "F4", "F8_E8M0", "C64", "f32"])


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A valid header with some of its values exchanged, and how many bytes of data it describes."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        kind, shape = draw(st.sampled_from(list(ITEM_SIZE))), draw(st.lists(st.integers(0, 3), max_size=3))
        nbytes = ITEM_SIZE[kind]
        for size in shape:
            nbytes *= size
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    for name in draw(st.lists(st.sampled_from(list(header)), max_size=1) if header else st.just([])):
        facts = header[name]
        match draw(st.sampled_from(["dtype", "shape", "begin", "end", "key", "all"])):
            case "dtype":
                facts["dtype"] = draw(TYPES | ANY_JSON)
            case "shape":
                facts["shape"] = draw(st.lists(NUMBERS, max_size=4) | ANY_JSON)
            case "begin":
                facts["data_offsets"][0] = draw(NUMBERS)
            case "end":
                facts["data_offsets"][1] = draw(NUMBERS)
            case "key":
                facts[draw(NAMES)] = draw(ANY_JSON)
            case "all":
                header[name] = draw(ANY_JSON)
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2) | ANY_JSON)
    return header, end


def agrees(file: Path) -> None:
    """Refused in one line, or laid out as the library has it, name by name and byte by byte."""
    try:
        layout = read_layout(file)
    except StockpotError as error:
        assert str(error).isprintable()
        assert str(file) in str(error)
        return
    data = file.read_bytes()
    with safe_open(file, framework="numpy") as reader:
        assert set(reader.keys()) == set(layout.entries)
        assert (reader.metadata() or {}) == layout.files[0].metadata
        for name, entry in layout.entries.items():
            piece = reader.get_slice(name)
            assert (piece.get_dtype(), tuple(piece.get_shape())) == (entry.dtype, entry.shape)
            if entry.dtype in ("F32", "I64", "U8", "BOOL"):
                inside = data[entry.offset : entry.offset + entry.nbytes]
                assert reader.get_tensor(name).tobytes() == inside
    end = len(data) - sum(entry.nbytes for entry in layout.entries.values())
    assert end == 8 + struct.unpack("<Q", data[:8])[0]


@given(headers(), st.integers(-2, 2).filter(bool) | st.just(0), st.sampled_from([None, 1]), st.binary(max_size=40))
def test_a_header_is_refused_or_read_as_the_library_reads_it(
    tmp_path: Path, made: tuple[dict[str, Any], int], more: int, indent: int | None, data: bytes
) -> None:
    header, nbytes = made
    text = json.dumps(header, indent=indent).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + (data + bytes(nbytes))[: max(0, nbytes + more)])
    agrees(file)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":, \\u0a1', max_size=40).map(str.encode))
def test_a_file_of_any_bytes_is_refused_or_read_as_the_library_reads_it(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(text)
    agrees(file)
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    agrees(file)


@given(headers(), st.integers(0, 300), st.binary(min_size=1, max_size=3), st.booleans())
def test_a_header_with_bytes_exchanged_is_refused_or_read_as_the_library_reads_it(
    tmp_path: Path, made: tuple[dict[str, Any], int], place: int, put: bytes, instead: bool
) -> None:
    header, nbytes = made
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + bytes(nbytes)
    at = place % len(whole)
    file = tmp_path / "x.safetensors"
    file.write_bytes(whole[:at] + put + whole[at + (len(put) if instead else 0) :])
    agrees(file)


@given(st.dictionaries(st.sampled_from(["weight_map", "metadata", "x"]), st.dictionaries(NAMES, NAMES | ANY_JSON)))
def test_an_index_is_refused_or_leads_to_files_of_its_folder(tmp_path: Path, index: dict[str, Any]) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    try:
        layout = read_layout(folder)
    except StockpotError as error:
        assert str(error).isprintable()
        assert str(folder) in str(error)
    else:
        assert index["weight_map"] == {}
        assert layout.entries == {}
