"""Damaged and hostile headers and indexes: each refused in one line, none trusted."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stockpot import StockpotError
from stockpot.weights.layout import ITEM_SIZE, read_layout

FOUR_BYTES = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HUGE = [1 << 63, 1 << 64, 2**200, 10**4000]


def raw(file: Path, header: str | bytes, data: bytes = b"", length: int | None = None) -> Path:
    text = header.encode() if isinstance(header, str) else header
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def described(file: Path, header: dict[str, Any], nbytes: int = 4) -> Path:
    return raw(file, json.dumps(header), bytes(nbytes))


def refusal(path: Path) -> str:
    """The one-line refusal; it names the file, and keeps hostile content short."""
    with pytest.raises(StockpotError) as caught:
        read_layout(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


def test_a_whole_file_is_laid_out_as_the_library_writes_it(file: Path) -> None:
    tensors = {"a": torch.ones(3, 4), "b": torch.tensor(2.0, dtype=torch.float64), "c": torch.ones(0, 5)}
    save_file(tensors, file, {"made": "here\n"})
    layout = read_layout(file)
    assert {name: entry.shape for name, entry in layout.entries.items()} == {"a": (3, 4), "b": (), "c": (0, 5)}
    assert layout.files[0].metadata == {"made": "here\n"}
    assert layout.nbytes == 48 + 8
    entry = layout.entries["a"]
    assert file.read_bytes()[entry.offset : entry.offset + entry.nbytes] == tensors["a"].numpy().tobytes()


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0", "F8_E4M3FNUZ", "C64", "float32", "X" * 5000])
def test_a_type_that_is_not_supported_is_not_called_damage(file: Path, dtype: str) -> None:
    message = refusal(described(file, {"w": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}))
    assert message.startswith(f"{file}: tensor 'w' has the type '{dtype[:400]}")
    assert "which is not supported here; supported are F64, F32" in message
    assert "damaged" not in message


@pytest.mark.parametrize("header", ["{}", "{ }", "{}   ", '{"__metadata__":{}}'])
def test_a_file_without_tensors_is_whole(file: Path, header: str) -> None:
    assert read_layout(raw(file, header)).entries == {}


def test_a_file_cut_at_any_byte_is_refused(file: Path) -> None:
    save_file({"a": torch.ones(3), "b": torch.ones(2).half()}, file)
    whole = file.read_bytes()
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        assert str(file) in refusal(file)
    file.write_bytes(whole + b"\0")
    assert "its header describes" in refusal(file)


@pytest.mark.parametrize("length", [0, 1, 2**60, 2**64 - 1, (16 << 20) + 1])
def test_a_header_of_an_impossible_length_is_refused(file: Path, length: int) -> None:
    raw(file, json.dumps({"a": FOUR_BYTES}), bytes(4), length)
    assert "header" in refusal(file)


def test_a_header_that_is_longer_than_any_model_needs_is_refused_unread(file: Path) -> None:
    raw(file, "{}", length=(16 << 20) + 1)
    os.truncate(file, 64 << 20)
    assert "is longer than 16,777,216" in refusal(file)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xfe{}", "hello world", "[]", "null", "3", '"text"', " {}", "{}x", "{}\0", "{} {}", "\ufeff{}", "{", "{]",
        '{"a"', '{"a":', '{"a":{}', '{"a":{},}', '{,"a":{}}', "{'a':{}}", '{a:{}}', '{"a" {}}',
        '{"a":null}', '{"a":[]}', '{"a":3}', '{"a":"text"}', '{"a":NaN}', '{"a":{}}', '{"a":true}',
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", '{"a":' * 100_000 + "}" * 100_000, "{" + "[" * 500_000,
        '{"a":{"dtype":' + "[" * 100_000 + "]" * 100_000 + "}}",
        '{"__metadata__":null}', '{"__metadata__":[]}', '{"__metadata__":"a"}', '{"__metadata__":{"a":1}}',
        '{"__metadata__":{"a":null}}', '{"__metadata__":{"a":{"b":"c"}}}', '{"__metadata__":{"a":NaN}}',
        '{"__metadata__":{"a":"\\ud800"}}', '{"__metadata__":{},"__metadata__":{}}',
    ],
)  # fmt: skip
def test_a_header_that_is_not_one_is_refused(file: Path, header: str | bytes) -> None:
    assert str(file) in refusal(raw(file, header))


WRONG: dict[str, list[object]] = {
    "dtype": ["F31", "f32", "", "F4", "F8_E8M0", "C64", 32, None, ["F32"], {}, "F32\n"],
    "shape": [
        None, 1, "1", {}, [-1], [True], [1.0], ["1"], [None], [[1]], [2], [0], *([size] for size in HUGE),
        [1 << 32, 1 << 32, 1], [-1, -1], [0, 1 << 62, 1 << 62], [1, *[2] * 64],
    ],
    "data_offsets": [
        None, 4, "04", [], [4], [0, 4, 4], [0.0, 4.0], [False, 4], {}, [-4, 0], [4, 0], [4, 8], [1, 5], ["0", "4"],
        [[0], [4]], [0, 3], [0, 5], *([0, end] for end in HUGE), *([end - 4, end] for end in HUGE),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_impossible_types_shapes_and_offsets_are_refused_with_the_tensors_name(
    file: Path, key: str, value: object
) -> None:
    message = refusal(described(file, {"the.weight": FOUR_BYTES | {key: value}}))
    assert str(file) in message
    assert "the.weight" in message


def test_a_number_that_the_format_does_not_allow_is_refused(file: Path) -> None:
    for number in ("-0", "0.0", "0e0", "NaN", "Infinity", "00", "+0", "0x0", "9" * 5000, "-" + "9" * 100_000):
        text = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[' + number + ",4]}}"
        assert str(file) in refusal(raw(file, text, bytes(4)))


def test_missing_and_unknown_keys_of_a_tensor_are_refused(file: Path) -> None:
    for key in FOUR_BYTES:
        assert "'a'" in refusal(described(file, {"a": {k: v for k, v in FOUR_BYTES.items() if k != key}}))
    assert "'a'" in refusal(described(file, {"a": FOUR_BYTES | {"scale": 1}}))


def test_overlapping_and_gapped_tensors_are_refused(file: Path) -> None:
    def two(first: list[int], second: list[int], nbytes: int) -> Path:
        header = {"a": FOUR_BYTES | {"data_offsets": first}, "b": FOUR_BYTES | {"data_offsets": second}}
        return described(file, header, nbytes)

    assert read_layout(two([4, 8], [0, 4], 8)).entries["a"].offset > read_layout(file).entries["b"].offset
    for first, second, nbytes in (
        ([0, 4], [0, 4], 4), ([0, 4], [0, 4], 8), ([0, 4], [2, 6], 6), ([0, 4], [5, 9], 9), ([1, 5], [5, 9], 9),
        ([0, 4], [4, 8], 9), ([0, 4], [8, 12], 12),
    ):  # fmt: skip
        assert str(file) in refusal(two(first, second, nbytes))


def test_a_key_that_appears_twice_is_refused(file: Path) -> None:
    entry = json.dumps(FOUR_BYTES)
    for header in (
        f'{{"a":{entry},"a":{entry}}}',
        f'{{"a":{entry},"\\u0061":{entry}}}',
        '{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"__metadata__":{"k":"1","k":"2"},"a":' + entry + "}",
    ):
        assert "appears twice" in refusal(raw(file, header, bytes(4)))


def test_many_keys_with_one_repeated_take_linear_time(file: Path) -> None:
    keys = ",".join(f'"{number:06}":""' for number in range(200_000))
    assert "'199999' appears twice" in refusal(raw(file, f'{{"__metadata__":{{{keys},"199999":""}}}}'))


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "\x1b[2J", "\ud800", "\u202e", "a" * 1001, "\x7f"])
def test_a_name_that_does_not_fit_in_one_line_is_refused(file: Path, name: str) -> None:
    assert "name" in refusal(described(file, {name: FOUR_BYTES}))


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a\\b", "", " ", "größe.权重", "a" * 1000, "a'b\"c"]
)
def test_other_names_are_names_and_not_paths(file: Path, name: str) -> None:
    assert list(read_layout(described(file, {name: FOUR_BYTES})).entries) == [name]


def test_every_known_type_has_the_size_of_the_format(file: Path) -> None:
    for kind, size in ITEM_SIZE.items():
        header = {"a": {"dtype": kind, "shape": [3], "data_offsets": [0, 3 * size]}}
        assert read_layout(described(file, header, 3 * size)).entries["a"].nbytes == 3 * size


# Folders.


def sharded(folder: Path, index: object, shards: dict[str, list[str]] | None = None) -> Path:
    """A folder with an index (text as it is), and with files that hold tensors of the given names."""
    folder.mkdir(exist_ok=True)
    text = index if isinstance(index, str) else json.dumps({"weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    for file, names in (shards or {}).items():
        save_file({name: torch.ones(1) for name in names}, folder / file)
    return folder


def test_shards_are_laid_out_as_one_model(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m", {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"},
                     {"1.safetensors": ["a", "c"], "2.safetensors": ["b"]})  # fmt: skip
    layout = read_layout(folder)
    assert {name: entry.file.name[0] for name, entry in layout.entries.items()} == {"a": "1", "c": "1", "b": "2"}
    assert len(layout.files) == 2


def test_an_index_that_names_a_tensor_that_its_shard_lacks_is_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m", {"a": "1.safetensors", "lost": "1.safetensors"}, {"1.safetensors": ["a"]})
    assert "1.safetensors holds tensor 'lost', which it does not" in refusal(folder)


def test_a_tensor_that_the_index_does_not_name_is_refused_and_not_dropped(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m", {"a": "1.safetensors"}, {"1.safetensors": ["a", "extra"]})
    assert "1.safetensors holds tensor 'extra', which model.safetensors.index.json does not place" in refusal(folder)
    twice = {"1.safetensors": ["a", "b"], "2.safetensors": ["b"]}
    folder = sharded(tmp_path / "n", {"a": "1.safetensors", "b": "2.safetensors"}, twice)
    assert "1.safetensors holds tensor 'b'" in refusal(folder)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{}", "hello", '{"weight_map": []}', '{"weight_map": null}', '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": null}}', '{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a": {"b": "c"}}}',
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', '{"weight_map": {}, "weight_map": {}}',
        '{"weight_map": "x"}', '{"weight_map": {"a": NaN}}', "[" * 200_000, '{"a":' * 200_000,
        '{"weight_map": {"a\nb": "x.safetensors"}}', '{"metadata": {"weight_map": {"a": "x.safetensors"}}}',
        '{"weight_map": {"a": "\\ud800.safetensors"}}', '{"weight_map": {"\\udc80": "x.safetensors"}}',
    ],
)  # fmt: skip
def test_an_index_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    message = refusal(sharded(tmp_path / "m", text, {"x.safetensors": ["a"]}))
    assert "model.safetensors.index.json is not an index of model files" in message


def test_an_index_that_is_longer_than_any_model_needs_is_refused_unread(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m", "{")
    os.truncate(folder / "model.safetensors.index.json", 1 << 36)
    assert "longer than 16,777,216 bytes" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "./x.safetensors", "..\\x.safetensors", "", ".",
        "..", "a\0.safetensors", "a\nb.safetensors", "x" * 300,
        "é" * 200 + ".safetensors", "~/x.safetensors", "x" * 2000,
    ],
)  # fmt: skip
def test_an_index_names_plain_files_of_its_own_folder_only(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"outside")
    assert "only plain file names are read" in refusal(sharded(tmp_path / "m", {"a": name}))


def test_an_index_that_names_a_pickle_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m", {"a": "pytorch_model.bin"})
    assert "pytorch_model.bin, which is missing" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "'pytorch_model.bin', which is not a safetensors file" in refusal(folder)


def test_a_link_out_of_the_folder_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    save_file({"a": torch.ones(1)}, outside)
    index = tmp_path / "outside.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))

    single = tmp_path / "single"
    single.mkdir()
    (single / "model.safetensors").symlink_to(outside)
    assert "model.safetensors is a link out of its folder" in refusal(single)

    shard = sharded(tmp_path / "shard", {"a": "1.safetensors"})
    (shard / "1.safetensors").symlink_to(outside)
    assert "1.safetensors is a link out of its folder" in refusal(shard)

    linked = sharded(tmp_path / "linked", {}, {"1.safetensors": ["a"]})
    (linked / "model.safetensors.index.json").unlink()
    (linked / "model.safetensors.index.json").symlink_to(index)
    assert "model.safetensors.index.json is a link out of its folder" in refusal(linked)

    (single / "model.safetensors").unlink()
    (single / "model.safetensors").symlink_to(tmp_path / "blobs" / "nothing")
    assert "is a link out of its folder" in refusal(single)


def test_a_link_within_the_folder_and_a_folder_that_is_a_link_are_read(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m", {"a": "1.safetensors"}, {"real.safetensors": ["a"]})
    (folder / "1.safetensors").symlink_to("real.safetensors")
    (tmp_path / "link").symlink_to(folder)
    assert list(read_layout(tmp_path / "link").entries) == ["a"]


def test_the_hubs_cache_links_from_snapshots_to_blobs_and_nowhere_else(tmp_path: Path) -> None:
    hub = tmp_path / "models--owner--name"
    snapshot = hub / "snapshots" / "0123abcd"
    for folder in (snapshot, hub / "blobs", hub / "other"):
        folder.mkdir(parents=True)
    save_file({"a": torch.ones(1)}, hub / "blobs" / "5f")
    (snapshot / "model.safetensors").symlink_to("../../blobs/5f")
    assert list(read_layout(snapshot).entries) == ["a"]
    (snapshot / "model.safetensors").unlink()
    (hub / "blobs" / "5f").rename(hub / "other" / "5f")
    (snapshot / "model.safetensors").symlink_to("../../other/5f")
    assert "is a link out of its folder" in refusal(snapshot)


def test_what_is_not_a_file_is_refused_at_once_and_never_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    model = folder / "model.safetensors"
    os.mkfifo(model)
    assert "model.safetensors is not a file" in refusal(folder)
    assert "model.safetensors is not a file" in refusal(model)
    model.unlink()
    model.mkdir()
    assert "model.safetensors is not a file" in refusal(folder)
    model.rmdir()
    model.symlink_to("/dev/zero")
    assert "is a link out of its folder" in refusal(folder)
    assert "is not a file" in refusal(Path("/dev/zero"))
    model.unlink()
    model.symlink_to("model.safetensors")
    assert "is not a file" in refusal(folder)


def test_a_shard_that_is_not_a_file_is_refused_at_once(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m", {"a": "1.safetensors"})
    os.mkfifo(folder / "1.safetensors")
    assert "1.safetensors is not a file" in refusal(folder)
    (folder / "1.safetensors").unlink()
    (folder / "1.safetensors").symlink_to("1.safetensors")
    assert "1.safetensors is not a file" in refusal(folder)


@pytest.mark.parametrize("path", ["missing", "x" * 300, "a\0b", ""])
def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(StockpotError) as caught:
        read_layout(tmp_path / path)
    assert "\n" not in str(caught.value)


def peak(folder: Path, text: bytes, index: bool) -> int:
    """MB of memory that refusing a hostile header or index adds to the interpreter's."""
    if index:
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors.index.json").write_bytes(text)
    else:
        raw(folder.with_suffix(".safetensors"), text)
    program = (
        "import resource, sys\n"
        "from stockpot.errors import StockpotError\n"
        "from stockpot.weights.layout import read_layout\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = used()\n"
        "try:\n    read_layout(sys.argv[1])\n"
        "except StockpotError:\n    print(used() - before >> 10)\n"
    )
    path = folder if index else folder.with_suffix(".safetensors")
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


MEBIBYTE = 1 << 20
HOSTILE = {
    "lists": b'{"weight_map":{"a":[' + b"[]," * ((MEBIBYTE - 100) // 3) + b"[]]}}",
    "keys": b'{"weight_map":{' + b",".join(b'"%06x":0' % number for number in range(MEBIBYTE // 11)) + b"}}",
    "many lists": b'{"weight_map":{"a":[' + b"[]," * (5 * MEBIBYTE) + b"[]]}}",
    "many keys": b'{"weight_map":{' + b",".join(b'"%06x":0' % number for number in range(MEBIBYTE)) + b"}}",
    "escapes": b'{"weight_map":"' + b"\\n" * (7 * MEBIBYTE) + b'"}',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_takes_no_more_than_a_few_times_its_size(tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind]
    assert peak(tmp_path / "m", text, index=False) < 50 + 3 * len(text) / MEBIBYTE


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "many keys"])
def test_a_hostile_index_takes_no_more_than_a_few_times_its_size(tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind]
    assert peak(tmp_path / "m", text, index=True) < 50 + 3 * len(text) / MEBIBYTE


@pytest.mark.thorough  # ten seconds, under tracemalloc
def test_an_index_of_a_million_wrong_values_is_bounded(tmp_path: Path) -> None:
    assert peak(tmp_path / "m", HOSTILE["many keys"], index=True) < 300
