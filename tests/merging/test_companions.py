"""Which other files of a model's folder a merge copies, and which it names as left out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stockpot import StockpotError
from stockpot.merging.api import Options
from stockpot.merging.execute import merge_into
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec
from stockpot.merging.write import companions as companions_module

FAST = Options(sync=False, threads=1)
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"idx": 3, "name": "3", "path": "../outside", "type": "sentence_transformers.models.Normalize"},
]


def encoder(folder: Path, dense: float = 1.0) -> Path:
    """A folder as sentence-transformers writes it: a model, pooling, a dense layer with weights, prompts."""
    for name in ("1_Pooling", "2_Dense"):
        (folder / name).mkdir(parents=True)
    save_file({"encoder.layer.0.w": torch.ones(2)}, folder / "model.safetensors")
    save_file({"linear.weight": torch.full((2, 2), dense)}, folder / "2_Dense" / "model.safetensors")
    files: dict[str, Any] = {
        "config.json": {"num_hidden_layers": 1},
        "modules.json": MODULES,
        "config_sentence_transformers.json": {"prompts": {"query": "query: "}},
        "sentence_bert_config.json": {"max_seq_length": 8},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 2},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def merged(output: Path, *folders: Path) -> Path:
    return merge_into(MergeSpec("linear", tuple(MergeModel(str(folder)) for folder in folders)), output, FAST)


def notes(folder: Path) -> list[str]:
    result: list[str] = json.loads((folder / "stockpot_merge.json").read_text())["notes"]
    return result


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


OURS = {"README.md", "stockpot_merge.yaml", "stockpot_merge.json"}


def test_the_files_of_sentence_transformers_come_along(tmp_path: Path) -> None:
    one, two = encoder(tmp_path / "one"), encoder(tmp_path / "two")
    out = merged(tmp_path / "out", one, two)
    assert names(out) == names(one) | OURS
    for name in names(one) - {"config.json", "model.safetensors"}:
        assert (out / name).read_bytes() == (one / name).read_bytes()
    assert notes(out) == []
    assert "library_name: sentence-transformers\n" in (out / "README.md").read_text()


def test_modules_that_differ_are_the_donors_and_named(tmp_path: Path) -> None:
    one, two = encoder(tmp_path / "one", 1.0), encoder(tmp_path / "two", 3.0)
    (two / "1_Pooling" / "config.json").write_text("{}")
    out = merged(tmp_path / "out", one, two)
    assert load_file(out / "2_Dense" / "model.safetensors")["linear.weight"].unique().tolist() == [1.0]
    assert notes(out) == [
        f"1_Pooling/config.json of {two} differs from that of {one}, which is copied.",
        f"2_Dense/model.safetensors of {two} differs from that of {one}, which is copied; weights outside the "
        "model are not merged.",
    ]


def test_all_that_is_not_weights_comes_along_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    one = encoder(tmp_path / "one")
    texts = ("LICENSE", "my notes (1).txt", "assets/eval/table.csv", "label_map.json", "vocabulary.bin.txt")
    gone = {
        "a pickle": ["pytorch_model.bin", "vocab.pkl"],
        "left by training": ["optimizer.pt", "scheduler.pt", "trainer_state.json", "training_args.bin"],
        "code": ["handler.py"],
        "other weights": ["consolidated.safetensors", "model.gguf", "tf_model.h5"],
        "a folder with weights of its own": ["checkpoint-7/model.safetensors", "onnx/deep/model.onnx"],
    }
    hidden = (".gitattributes", ".git/config", "pytorch_model.bin.index.json")
    for name in (*texts, *(name for named in gone.values() for name in named), *hidden, "checkpoint-7/config.json"):
        (one / name).parent.mkdir(parents=True, exist_ok=True)
        (one / name).write_text(name)
    out = merged(tmp_path / "out", one)
    assert names(out) == names(encoder(tmp_path / "plain")) | OURS | set(texts)
    message = notes(out)
    start = f"not copied from {one}: "
    expected = {**gone, "a folder with weights of its own": ["checkpoint-7/", "onnx/"]}
    assert set(message) == {f"{start}{', '.join(left)} ({why})." for why, left in expected.items()}


def test_a_pickle_that_a_module_needs_is_said_to_be_needed(tmp_path: Path) -> None:
    one = encoder(tmp_path / "one")
    (one / "2_Dense" / "model.safetensors").rename(one / "2_Dense" / "pytorch_model.bin")
    message = notes(merged(tmp_path / "out", one))
    assert len(message) == 1
    assert (
        "2_Dense/pytorch_model.bin (a pickle, without which sentence-transformers cannot open the output" in message[0]
    )


def test_no_link_leads_out_of_the_donors_folder(tmp_path: Path) -> None:
    one = encoder(tmp_path / "one")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.json").write_text("secret")
    (one / "linked").symlink_to(tmp_path / "outside")
    (one / "LICENSE").symlink_to(tmp_path / "outside" / "secret.json")
    (one / "1_Pooling" / "more.json").symlink_to("../../outside/secret.json")
    (one / "loop").symlink_to("loop")
    os.mkfifo(one / "pipe")
    out = merged(tmp_path / "out", one)
    assert names(out) == names(encoder(tmp_path / "plain")) | OURS
    start = f"not copied from {one}"
    assert notes(out) == [
        f"{start}: linked/ (a link).",
        f"{start}: LICENSE, loop, pipe, 1_Pooling/more.json (a link out of the folder, or not a plain file).",
    ]


def test_names_that_cannot_be_printed_and_files_without_end_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = encoder(tmp_path / "one")
    (one / "a\x1b[31m.txt").write_text("x")
    with (one / "huge.csv").open("wb") as file:
        file.truncate(2 << 30)  # takes no room on the disk
    monkeypatch.setattr(companions_module, "_MOST", 9)
    for number in range(6):
        (one / f"zz{number}.txt").write_text("x")
    out = merged(tmp_path / "out", one)
    assert "huge.csv" not in names(out)
    message = "\n".join(notes(out))
    assert message.isascii()
    assert r"'a\x1b[31m.txt' (a name that cannot be printed)" in message
    assert "huge.csv (larger than 1 GiB)" in message
    assert "(more than 9 files)" in message


def test_a_tree_of_many_folders_is_not_walked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = encoder(tmp_path / "one")
    for number in range(4):
        (one / "data" / str(number)).mkdir(parents=True)
        (one / "data" / str(number) / "x.csv").write_text("x")
    monkeypatch.setattr(companions_module, "_MOST", 4)
    out = merged(tmp_path / "out", one)
    assert not (out / "data").exists()
    assert any("data/ (more than 4 folders)" in note for note in notes(out))


@pytest.mark.parametrize("listed", ["{", "3", "[3]", '[{"path": 3}]', '[{"path": ""}]', "[" * 100_000, "\xff"])
def test_a_list_of_modules_that_cannot_be_read_names_none(tmp_path: Path, listed: str) -> None:
    one = encoder(tmp_path / "one")
    (one / "modules.json").write_bytes(listed.encode("latin-1"))
    out = merged(tmp_path / "out", one)
    assert "1_Pooling/config.json" in names(out)
    assert not (out / "2_Dense").exists()
    assert any("2_Dense/ (a folder with weights of its own)" in note for note in notes(out))


def test_what_comes_along_needs_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = encoder(tmp_path / "one")
    (one / "table.csv").write_text("x" * 10_000)
    free = type("Usage", (), {"free": 9_000})
    monkeypatch.setattr("shutil.disk_usage", lambda place: free)
    with pytest.raises(StockpotError, match=r"bytes, but only 9,000 are free"):
        merged(tmp_path / "out", one)
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_of_another_model_takes_the_place_of_the_donors(tmp_path: Path) -> None:
    one, two = encoder(tmp_path / "one"), encoder(tmp_path / "two")
    (one / "vocab.txt").write_text("one")
    (two / "tokenizer.json").write_text("{}")
    models = (MergeModel(str(one)), MergeModel(str(two)))
    out = merge_into(MergeSpec("linear", models, tokenizer=str(two)), tmp_path / "out", FAST)
    assert "vocab.txt" not in names(out)
    assert {"tokenizer.json", "modules.json", "1_Pooling/config.json"} <= names(out)
