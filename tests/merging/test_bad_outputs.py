"""Outputs that cannot be written: one clear line each, nothing left that looks like a model."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refusal
from safetensors.torch import load_file

from stockpot import StockpotError
from stockpot.merging.api import Options, merge


def test_an_output_that_is_holds_or_lies_in_an_input_is_refused(tmp_path: Path, three: list[Path]) -> None:
    one, two, base = three
    file = one / "model.safetensors"
    (tmp_path / "link").symlink_to(one)
    for place in (one, two, base, one / "deep" / "er", tmp_path, tmp_path / "link", tmp_path / "two" / ".." / "one"):
        message = refusal(tmp_path, "linear", [one, two], base=base, output=place)
        assert "would overwrite the input" in message or "is a link" in message
    for place in (file, one):
        assert "would overwrite the input" in refusal(tmp_path, "linear", [file, two], output=place)


def test_an_output_that_exists_is_left_alone(tmp_path: Path, three: list[Path]) -> None:
    existing = tmp_path / "held"
    existing.mkdir()
    (existing / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("mine")
    for name in ("held", "file"):
        assert "already exists" in refusal(tmp_path, "linear", three[:2], output=tmp_path / name)
    for name in ("link", "loop"):
        assert "is a link" in refusal(tmp_path, "linear", three[:2], output=tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_folder_is_taken_as_the_output(tmp_path: Path, three: list[Path]) -> None:
    (tmp_path / "out").mkdir()
    assert merge("linear", three[:2], output=tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("output", [".", "", "..", "/"])
def test_an_output_that_names_no_new_folder_is_refused(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refusal(tmp_path, "linear", three[:2], output=Path(output))


def test_an_output_that_cannot_be_created_is_refused(tmp_path: Path, three: list[Path]) -> None:
    (tmp_path / "file").write_text("mine")
    assert "File exists" in refusal(tmp_path, "linear", three[:2], output=tmp_path / "file" / "out")
    assert "Not a directory" in refusal(tmp_path, "linear", three[:2], output=tmp_path / "file" / "deep" / "out")
    assert "File name too long" in refusal(tmp_path, "linear", three[:2], output=tmp_path / ("x" * 300))
    assert "File name too long" in refusal(tmp_path, "linear", three[:2], output=tmp_path / ("x" * 250))


def failing(function: str, number: int, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = getattr(os, function)
    calls: Iterator[int] = iter(range(1_000_000))

    def act(*arguments: Any, **more: Any) -> Any:
        if next(calls) >= after:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **more)

    monkeypatch.setattr(os, function, act)


@pytest.mark.parametrize(
    ("function", "number", "after", "message"),
    [
        ("posix_fallocate", errno.ENOSPC, 0, "the disk is full"), ("pwrite", errno.ENOSPC, 0, "the disk is full"),
        ("pwrite", errno.ENOSPC, 2, "the disk is full"), ("pwrite", errno.EDQUOT, 1, "the disk is full"),
        ("pwrite", errno.EIO, 1, "Input/output error"), ("fsync", errno.ENOSPC, 0, "the disk is full"),
        ("mkdir", errno.EROFS, 0, "Read-only file system"), ("mkdir", errno.EACCES, 0, "Permission denied"),
        ("posix_fallocate", errno.EFBIG, 0, "File too large"), ("rename", errno.EACCES, 0, "Permission denied"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_or_read_only_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch,
    function: str, number: int, after: int, message: str, threads: int,
) -> None:  # fmt: skip
    failing(function, number, after, monkeypatch)
    assert message in refusal(tmp_path, "linear", three[:2], options=Options(threads=threads))


def test_a_disk_that_fills_up_between_shards_leaves_no_model(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Options(max_shard_size="60B", threads=1)
    with monkeypatch.context() as patch:
        failing("posix_fallocate", errno.ENOSPC, 1, patch)
        with pytest.raises(StockpotError, match="the disk is full"):
            merge("linear", three[:2], output=tmp_path / "out", options=small)
    assert not (tmp_path / "out").exists()
    left = next(tmp_path.glob(".tmp-*"))
    with pytest.raises(StockpotError, match="holds neither model"):
        merge("linear", [left])
    out = merge("linear", three[:2], output=tmp_path / "out", options=Options("60B", threads=1, resume=True))
    assert isinstance(out, Path)
    whole = merge("linear", three[:2])
    assert isinstance(whole, dict)
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    for name, file in index.items():
        assert torch.equal(load_file(out / file)[name], whole[name])
