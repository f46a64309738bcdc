"""A merge that dies leaves nothing that looks like a model, and resumes from its finished files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import killed
import pytest
import torch
from checkpoints import assert_same, loaded, saved, state, tuned
from pristine import Pristine
from safetensors import safe_open

import stockpot
from stockpot import StockpotError
from stockpot.merging.api import Options
from stockpot.merging.write import shard_file as writer
from stockpot.merging.write.model_folder import partial_folder

SMALL = Options(max_shard_size="900B", threads=1)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    saved(tmp_path / "a", tuned(1), shards=2)
    saved(tmp_path / "b", tuned(2))
    saved(tmp_path / "base", state(0))
    return tmp_path


def merge(folder: Path, out: str = "out", resume: bool = False, **changes: Any) -> Path:
    options = Options(**{**vars(SMALL), "resume": resume, **changes})
    result = stockpot.merge(
        "ties", [folder / "a", folder / "b"], folder / "base", folder / out, density=0.5, options=options
    )
    assert isinstance(result, Path)
    return result


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_killed_merge_leaves_no_model_and_goes_on_to_the_same_bits(inputs: Path, pristine: Pristine) -> None:
    whole = files(merge(inputs, "whole"))
    with pristine.start(partial(killed.serve, folder=inputs)) as connection:

        def merge_until(at: int) -> tuple[int, int]:
            """The exit code of a merge that dies at this call, and how many calls there were if it does not."""
            connection.send(at)
            code, calls = connection.recv()
            return code, calls

        _check_every_kill(inputs, whole, merge_until)


def _check_every_kill(inputs: Path, whole: dict[str, bytes], merge_until: Callable[[int], tuple[int, int]]) -> None:
    code, total = merge_until(0)
    assert code == 0
    assert set(files(inputs / "out")) == set(whole)
    assert total > 30
    for at in sorted({1, 2, total // 5, total // 3, total // 2, 3 * total // 4, total - 12, total - 3, total}):
        for path in (inputs / "out").glob("*"):
            path.unlink()
        if (inputs / "out").exists():
            (inputs / "out").rmdir()
        assert merge_until(at)[0] == 9
        partial = partial_folder(inputs / "out")
        if (inputs / "out").exists():  # all was done, but for the last sync
            assert at > total - 3
        else:
            merge(inputs, resume=partial.is_dir())
        result = files(inputs / "out")
        assert set(result) == set(whole)
        for name, content in whole.items():
            if name.endswith((".safetensors", "index.json", "config.json")):
                assert result[name] == content, (at, name)
        assert not partial.exists()


def test_finished_shards_are_taken_up_and_not_computed_again(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = writer.ShardFile.__post_init__

    def counting(self: writer.ShardFile) -> None:
        opened.append(self.path.name)
        if len(opened) == 3:
            raise OSError(28, "No space left on device", str(self.path))
        real(self)

    monkeypatch.setattr(writer.ShardFile, "__post_init__", counting)
    with pytest.raises(StockpotError, match="the disk is full") as full:
        merge(inputs)
    advice = "free some space; 2 finished files were kept: run the same command with --resume to continue."
    assert str(full.value).endswith(f"could not be written; {advice}")
    assert not (inputs / "out").exists()
    partial = partial_folder(inputs / "out")
    journal = json.loads((partial / ".merge.json").read_text())
    assert list(journal["shards"]) == opened[:2]
    with pytest.raises(StockpotError, match=r"holds 2 finished files .* --resume"):
        merge(inputs)
    with pytest.raises(StockpotError, match="belongs to another merge"):
        merge(inputs, resume=True, max_shard_size="2KB")
    done = opened[:2]
    # A finished file that was damaged afterwards is noticed.
    file = partial / done[0]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StockpotError, match="differs from what was written"):
        merge(inputs, resume=True)
    file.write_bytes(content)
    opened[:] = ["", "", ""]
    merge(inputs, resume=True)
    assert not set(opened) & set(done)
    assert_same(loaded(inputs / "out"), loaded(merge(inputs, "again")))


@pytest.mark.parametrize("function", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk_at_the_start_promises_nothing_to_go_on_from(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(StockpotError, match="the disk is full") as caught:
        merge(inputs)
    assert str(caught.value).endswith("free some space; nothing was kept: run the same command again.")


def test_a_full_disk_beside_the_weights_gives_the_advice_for_merges(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function that writes the journal is shared with runs, and gives advice for runs."""
    real = Path.replace

    def full(self: Path, target: Any) -> Any:
        if Path(target).name == ".merge.json":
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StockpotError, match="the disk is full") as caught:
        merge(inputs)
    assert "stockpot resume" not in str(caught.value)
    assert str(caught.value).endswith("nothing was kept: run the same command again.")


def test_inputs_that_changed_are_another_merge(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        calls: list[int] = []
        real = os.posix_fallocate

        def third(handle: int, start: int, length: int) -> None:
            calls.append(length)
            full() if len(calls) == 3 else real(handle, start, length)

        patch.setattr(os, "posix_fallocate", third)
        with pytest.raises(StockpotError, match="the disk is full"):
            merge(inputs)
    later = (inputs / "b" / "model.safetensors").stat().st_mtime_ns + 10**9
    os.utime(inputs / "b" / "model.safetensors", ns=(later, later))
    with pytest.raises(StockpotError, match="its inputs have changed"):
        merge(inputs, resume=True)


def test_a_merge_that_fails_at_once_leaves_nothing(inputs: Path) -> None:
    broken = tuned(2)
    broken["model.layers.2.mlp.weight"][3, 1] = float("nan")
    saved(inputs / "nan", broken)
    before = sorted(path.name for path in inputs.iterdir())
    with pytest.raises(
        StockpotError, match=r"'model.layers.2.mlp.weight' would hold nan at element 25: NaN or infinity in .*nan"
    ):
        stockpot.merge("linear", [inputs / "a", inputs / "nan"], output=inputs / "out")
    assert sorted(path.name for path in inputs.iterdir()) == before
    allowed = Options(allow_nonfinite=True)
    stockpot.merge("linear", [inputs / "a", inputs / "nan"], output=inputs / "out", options=allowed)
    assert torch.isnan(loaded(inputs / "out")["model.layers.2.mlp.weight"][3, 1])


def test_resume_needs_something_to_go_on_with(inputs: Path) -> None:
    with pytest.raises(StockpotError, match="no unfinished merge"):
        merge(inputs, resume=True)


def test_two_merges_into_one_folder_do_not_meet(inputs: Path) -> None:
    import fcntl

    partial = partial_folder(inputs / "out")
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(StockpotError, match="another process is merging"):
            merge(inputs)
    finally:
        os.close(handle)
    merge(inputs)


def test_what_was_written_is_read_again(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = writer.ShardFile.close

    def spoiling(self: writer.ShardFile, sync: bool) -> None:
        os.pwrite(self._handle, b"\xff", self.nbytes - 1)
        real(self, sync)

    monkeypatch.setattr(writer.ShardFile, "close", spoiling)
    with pytest.raises(StockpotError, match="differs from what was written: is the disk failing"):
        merge(inputs)
    assert not (inputs / "out").exists()
    merge(inputs, verify=False)


def test_shards_are_aligned_and_the_library_reads_them(inputs: Path) -> None:
    odd = {"bytes": torch.arange(3, dtype=torch.uint8), "w": torch.ones(3), "h": torch.ones(3, dtype=torch.float16)}
    saved(inputs / "odd", odd)
    stockpot.merge("linear", [inputs / "odd"], output=inputs / "out")
    assert_same(loaded(inputs / "out"), odd)
    with safe_open(inputs / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.offset_keys() == ["w", "h", "bytes"]
    raw = (inputs / "out" / "model.safetensors").read_bytes()
    assert int.from_bytes(raw[:8], "little") % 8 == 0


def test_the_index_says_where_everything_is(inputs: Path) -> None:
    merge(inputs)
    index = json.loads((inputs / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(state(0))
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state(0).values())
    for name, file in index["weight_map"].items():
        with safe_open(inputs / "out" / file, "pt") as handle:
            assert name in set(handle.keys())
    assert max(path.stat().st_size for path in (inputs / "out").glob("*.safetensors")) < 900 + 1000
