"""The cache of token sequences: made once, made anew where damaged, never in the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stockpot.models.tokenizer import train_tokenizer
from stockpot.streams.spec import DataSpec
from stockpot.streams.text import cache
from stockpot.streams.text.cache import cached
from stockpot.streams.text.rows import PromptPair, TextRows
from stockpot.streams.text.text_source import open_text
from stockpot.streams.text.tokens import Tokenised, tokenise

TOKENIZER: Any = train_tokenizer([], 300)
ROWS = TextRows("here", [PromptPair("ab", "cde"), PromptPair("f", "gh")], [0, 1], [])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "stockpot")
    return tmp_path / "stockpot"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []

    def counted(*args: Any, **options: Any) -> Tokenised:
        made.append(1)
        return tokenise(*args, **options)

    monkeypatch.setattr(cache, "tokenise", counted)
    return made


def make(rows: TextRows = ROWS, tokenizer: Any = TOKENIZER, longest: int = 9, **options: Any) -> Tokenised:
    return cached(rows, tokenizer, longest, **{"packing": True, "training": True, **options})


def same(one: Tokenised, other: Tokenised) -> None:
    assert (one.bytes, one.cut, one.dropped) == (other.bytes, other.cut, other.dropped)
    assert one.examples.pad == other.examples.pad
    for name in ("tokens", "ends", "targets", "positions"):
        first_tensor, second_tensor = getattr(one.examples, name), getattr(other.examples, name)
        assert (first_tensor is None) == (second_tensor is None)
        assert first_tensor is None or (
            first_tensor.dtype == second_tensor.dtype and torch.equal(first_tensor, second_tensor)
        )


def test_the_second_time_nothing_is_tokenised(folder: Path, calls: list[int]) -> None:
    same(make(), make())
    same(make(packing=False), make(packing=False))
    same(make(longest=1, long_prompts="drop"), make(longest=1, long_prompts="drop"))
    assert make(longest=1, long_prompts="drop").dropped == (0,)
    assert len(calls) == 3
    assert len(list(folder.iterdir())) == 3


def test_whatever_matters_makes_another_file(folder: Path, calls: list[int]) -> None:
    make()
    make(longest=8)
    make(packing=None)
    make(training=False)
    make(long_prompts="drop")
    make(tokenizer=train_tokenizer(["ab ab ab"], 300))
    make(rows=TextRows("here", [PromptPair("ab", "cde"), PromptPair("f", "gi")], [0, 1], []))
    make(rows=TextRows("here", [PromptPair("abc", "de"), PromptPair("f", "gh")], [0, 1], []))
    assert len(calls) == len(list(folder.iterdir())) == 8


@pytest.mark.parametrize("damage", ["byte", "short", "text", "other"])
def test_a_damaged_or_foreign_file_is_made_anew(folder: Path, calls: list[int], damage: str) -> None:
    first = make()
    (path,) = folder.iterdir()
    data = path.read_bytes()
    if damage == "other":
        make(longest=8)
        other = next(file for file in folder.iterdir() if file != path)
        path.write_bytes(other.read_bytes())
        calls.pop()
    else:
        path.write_bytes({"byte": data[:-1] + bytes([data[-1] ^ 1]), "short": data[:-9], "text": b"hello"}[damage])
    same(make(), first)
    assert len(calls) == 2
    assert path.read_bytes() == data


def test_a_cache_that_cannot_be_written_costs_time_only(folder: Path, calls: list[int]) -> None:
    folder.write_text("a file where the folder should be")
    same(make(), make())
    assert len(calls) == 2


@pytest.mark.thorough  # the whole data set; test_text_tokens.py packs a few pairs
def test_the_packed_pairs_of_gsm8k_lose_nothing(shared_data: Callable[[str], Path], folder: Path) -> None:
    from transformers import GPT2Tokenizer

    names = shared_data("tokenizers/gpt2")
    tokenizer = GPT2Tokenizer(str(names / "vocab.json"), str(names / "merges.txt"))
    data = DataSpec(path=str(shared_data("language/gsm8k")), prompt="{question}\n", completion="answer")
    rows = open_text(data, "task 'maths'").train
    assert len(rows.items) == 7473
    made = make(rows, tokenizer, 512)
    assert (made.cut, made.bytes) == (0, sum(len(item.completion.encode()) for item in rows.items))  # type: ignore[union-attr]
    assert made.examples.targets is not None
    assert int((made.examples.targets == tokenizer.eos_token_id).sum()) == 7473
    assert len(made.examples.tokens) / (512 * len(made.examples)) > 0.98
