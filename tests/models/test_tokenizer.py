"""Tokenizers: trained on texts, opened from folders, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stockpot.errors import StockpotError
from stockpot.models.spec import ModelSpec, TrainedTokenizer
from stockpot.models.tokenizer import (
    end_of_text,
    open_tokenizer,
    padding,
    tokenizer_fingerprint,
    train_tokenizer,
)

TEXTS = [
    "the law of the land",
    "the sum of two and two is four",
    "def f(x): return x",
    "every citizen shall pay taxes quarterly",
] * 20
TRAINED = train_tokenizer(TEXTS, 300)


def spec(**values: Any) -> ModelSpec:
    return ModelSpec(**(values if "name" in values else {"config": {"model_type": "llama"}, **values}))


@given(st.text())
def test_every_string_is_read_back_as_it_was_written(text: str) -> None:
    assert TRAINED.decode(TRAINED(text)["input_ids"]) == text


def test_training_twice_gives_the_same_tokenizer_of_the_wanted_size() -> None:
    assert len(TRAINED) == 300
    assert tokenizer_fingerprint(train_tokenizer(TEXTS, 300)) == tokenizer_fingerprint(TRAINED)
    assert tokenizer_fingerprint(train_tokenizer(TEXTS, 301)) != tokenizer_fingerprint(TRAINED)


def test_one_token_ends_begins_and_pads() -> None:
    assert TRAINED.eos_token_id == TRAINED.bos_token_id == TRAINED.pad_token_id == end_of_text(TRAINED) == 0


def test_a_saved_tokenizer_opens_as_the_same_one(tmp_path: Path) -> None:
    TRAINED.save_pretrained(tmp_path)
    again = open_tokenizer(spec(name=str(tmp_path)), lambda: pytest.fail("nothing is to be trained"))
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(TRAINED)
    assert again("the law  \n é")["input_ids"] == TRAINED("the law  \n é")["input_ids"]


def test_a_call_that_cuts_and_pads_does_not_change_the_fingerprint_and_a_chat_template_does() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "a b c"], truncation=True, max_length=2, padding=True)
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.chat_template = "{{ messages }}"
    assert tokenizer_fingerprint(tokenizer) != before


def test_a_recipe_trains_one_and_may_give_a_chat_template() -> None:
    opened = open_tokenizer(spec(tokenizer=TrainedTokenizer(train=300), chat_template="{{ 1 }}"), lambda: TEXTS)
    assert len(opened) == 300
    assert opened.chat_template == "{{ 1 }}"
    with pytest.raises(ValidationError, match="300"):
        TrainedTokenizer(train=299)


def test_end_of_text_stands_in_for_padding_without_a_new_token(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.pad_token = None
    assert padding(tokenizer) == tokenizer.eos_token_id
    tokenizer.save_pretrained(tmp_path)
    opened = open_tokenizer(spec(name=str(tmp_path)), lambda: [])
    assert (len(opened), opened.pad_token_id) == (300, 0)


def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.eos_token = tokenizer.pad_token = None
    cases: list[tuple[Any, str]] = [
        (lambda: open_tokenizer(spec(), lambda: []), "train: 8192"),
        (lambda: open_tokenizer(spec(name="./nowhere"), lambda: []), "no such folder"),
        (lambda: open_tokenizer(spec(name="nobody/nothing-at-all"), lambda: []), "needs the network"),
        (lambda: open_tokenizer(spec(name=str(tmp_path)), lambda: []), "tokenizer.json"),
        (lambda: end_of_text(tokenizer), "no end-of-text token"),
        (lambda: padding(tokenizer), "neither a padding nor an end-of-text token .* tokenizer.pad_token set to"),
    ]
    for call, expected in cases:
        with pytest.raises(StockpotError, match=expected) as caught:
            call()
        assert "\n" not in str(caught.value)
