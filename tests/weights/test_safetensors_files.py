"""Checkpoints on disk, including damaged and hostile ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stockpot import StockpotError
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 4),
        "b": torch.randn(2).bfloat16(),
        "c": torch.arange(5),
        "d": torch.tensor(1.5, dtype=torch.float64),
        "e": torch.randn(4, 3).t(),
    }


def sharded(folder: Path, weight_map: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(StockpotError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_saved_is_read_back_bitwise(tmp_path: Path) -> None:
    save_checkpoint(tensors(), tmp_path / "new" / "model.safetensors", {"made": "here"})
    for path in (tmp_path / "new", tmp_path / "new" / "model.safetensors"):
        opened = open_checkpoint(path)
        assert set(opened) == set(tensors())
        assert opened.metadata["made"] == "here"
        for name, tensor in tensors().items():
            assert opened[name].dtype == tensor.dtype
            assert torch.equal(opened[name], tensor)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.safetensors"]


def test_writing_to_an_opened_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    save_checkpoint(tensors(), tmp_path / "x.safetensors")
    open_checkpoint(tmp_path / "x.safetensors")["a"].zero_()
    assert torch.equal(open_checkpoint(tmp_path / "x.safetensors")["a"], tensors()["a"])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_checkpoint({"a": torch.ones(2)}, file)
    whole = torch.ones(4)
    with pytest.raises(Exception, match=r"share memory|shared"):
        save_checkpoint({"a": whole, "b": whole}, file)
    assert list(open_checkpoint(file)) == ["a"]
    assert list(tmp_path.iterdir()) == [file]


def test_an_open_checkpoint_outlives_its_replacement(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_checkpoint({"a": torch.ones(2000)}, file)
    opened = open_checkpoint(file)
    save_checkpoint({"a": torch.zeros(1)}, file)
    assert torch.equal(opened["a"], torch.ones(2000))


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    save_checkpoint({"a": torch.ones(2), "hidden": torch.ones(1)}, tmp_path / "model-1.safetensors")
    save_checkpoint({"b": torch.zeros(3)}, tmp_path / "model-2.safetensors")
    opened = open_checkpoint(sharded(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"}))
    assert set(opened) == {"a", "b"}
    assert torch.equal(opened["b"], torch.zeros(3))


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/secret.safetensors", "sub/secret.safetensors", "..", ".", "", "a\\b.safetensors"],
)
def test_an_index_reaches_nothing_outside_its_folder(name: str, tmp_path: Path) -> None:
    save_checkpoint({"a": torch.ones(2)}, tmp_path / "secret.safetensors")
    save_checkpoint({"a": torch.ones(2)}, tmp_path / "f" / "sub" / "secret.safetensors")
    assert "only plain file names are read" in refusal(sharded(tmp_path / "f", {"a": name}))


def test_links_out_of_the_folder_are_refused_except_in_the_hubs_cache(tmp_path: Path) -> None:
    save_checkpoint({"a": torch.ones(2)}, tmp_path / "blobs" / "0123")
    evil = sharded(tmp_path / "evil", {"a": "model-1.safetensors"})
    (evil / "model-1.safetensors").symlink_to(tmp_path / "blobs" / "0123")
    assert "is a link out of its folder" in refusal(evil)
    (tmp_path / "snapshots").mkdir()
    cached = sharded(tmp_path / "snapshots" / "abc", {"a": "model-1.safetensors"})
    (cached / "model-1.safetensors").symlink_to("../../blobs/0123")
    assert torch.equal(open_checkpoint(cached)["a"], torch.ones(2))


def test_indexes_that_are_wrong(tmp_path: Path) -> None:
    save_checkpoint({"a": torch.ones(2)}, tmp_path / "m.safetensors")
    (tmp_path / "x.bin").write_bytes(b"pickle")
    assert "says that m.safetensors holds tensor 'b'" in refusal(sharded(tmp_path, {"b": "m.safetensors"}))
    assert "names n.safetensors, which is missing" in refusal(sharded(tmp_path, {"a": "n.safetensors"}))
    assert "not a safetensors file" in refusal(sharded(tmp_path, {"a": "x.bin"}))
    index = tmp_path / "model.safetensors.index.json"
    for text in ("{", "[]", '{"weight_map": 3}', "{}", "[" * 100_000):
        index.write_text(text)
        assert "is not an index of model files" in refusal(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_checkpoint(tensors(), file)
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 100, b"PK\x03\x04" + whole):
        file.write_bytes(damaged)
        assert f"{file} is not a whole safetensors file" in refusal(file)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "pytorch_model.bin")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        message = refusal(path)
        assert "a pickle is never loaded" in message
        assert "save_pretrained" in message


def test_folders_with_nothing_to_open(tmp_path: Path) -> None:
    assert "holds neither model.safetensors" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "none")
    save_checkpoint({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    assert "name the file itself, for example" in refusal(tmp_path)
    save_checkpoint({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    assert "it is an adapter" in refusal(tmp_path)


def test_an_unknown_type_is_not_called_damage(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    message = refusal(tmp_path / "x.safetensors")
    assert "tensor 'w' has the type 'F7', which is not supported here" in message
    assert "damaged" not in message
