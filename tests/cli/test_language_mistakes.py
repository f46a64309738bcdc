"""Every mistake in data, tokenizers and models of text: one line with task, file, row and remedy, and no run folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    T5Config,
    T5ForConditionalGeneration,
)

from stockpot.models.tokenizer import train_tokenizer

GPT2 = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 300}
BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 300}
RAISING = (
    "{% for m in messages %}{% if m.content == 'ask 17' %}{{ raise_exception('roles must alternate.') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
ROWS = 24


def talk(row: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"ask {row}"}, {"role": "assistant", "content": f"say {row}"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that is right, and files whose row 17 is not; models and tokenizers that lack something."""
    place = tmp_path_factory.mktemp("texts")
    sound = [
        {"text": f"text {row}", "q": f"ask {row}", "a": f"say {row}", "messages": talk(row)} for row in range(ROWS)
    ]
    for name, change in {
        "good": {}, "null": {"text": None}, "empty": {"a": " "}, "long": {"q": "x y " * 40}, "mute": {"messages": []},
    }.items():  # fmt: skip
        rows = [{**row, **(change if number == 17 else {})} for number, row in enumerate(sound)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "blank.jsonl").write_text('{"text": " "}\n' * ROWS)
    (place / "latin.txt").write_bytes(b"one\n" * 17 + b"caf\xe9\n")
    (place / "split").mkdir()
    (place / "split" / "train.jsonl").write_bytes((place / "good.jsonl").read_bytes())
    (place / "split" / "test.jsonl").write_bytes((place / "long.jsonl").read_bytes())

    whole, endless, large = (train_tokenizer(["a b"], 300) for _ in range(3))
    endless.eos_token = endless.pad_token = endless.bos_token = None
    large.add_tokens([f"<{number}>" for number in range(99)])
    sizes = {**GPT2, "bos_token_id": 0, "eos_token_id": 0}
    models: dict[str, tuple[Any, Any]] = {
        "gpt2": (GPT2LMHeadModel(GPT2Config(**sizes)), whole),
        "endless": (GPT2LMHeadModel(GPT2Config(**sizes)), endless),
        "large": (GPT2LMHeadModel(GPT2Config(**sizes)), large),
        "both-ways": (BertLMHeadModel(BertConfig(**BERT)), whole),
        "t5": (T5ForConditionalGeneration(T5Config(d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)), whole),
        "headless": (GPT2Model(GPT2Config(**sizes, tie_word_embeddings=False)), whole),
    }  # fmt: skip
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    recipe = {
        "model": {"name": str(place / "gpt2")},
        "scenario": "language",
        "tasks": [{"name": "law", "data": {"path": str(place / "good.jsonl"), "text": "text"}}],
        "method": {"name": "sequential"},
        "train": {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return place


def law(name: str, **data: object) -> str:
    block = ", ".join(f"{key}: {json.dumps(value)}" for key, value in data.items())
    return f"tasks.0.data={{path: FOLDER/{name}{', ' * bool(block)}{block}}}"


PAIRS = {"prompt": "q", "completion": "a"}
MISTAKES: dict[str, tuple[list[str], str]] = {
    "a column that is missing": ([law("good.jsonl", text="txt")],
        r"task 'law': .*/good\.jsonl, split 'train': data\.text: 'txt' is neither a column.* mean 'text'\? Columns: "),
    "a column of a template that is missing": ([law("good.jsonl", text="{txt}: {q}")],
        r"data\.text: there is no column 'txt'\. Did you mean 'text'\? Columns: \['text', 'q', 'a', 'messages'\]"),
    "a template that fails on row 17": ([law("null.jsonl", text="T: {text}")],
        r"task 'law': .*/null\.jsonl, split 'train', row 17: column 'text' holds nothing \(null\); fix the row"),
    "texts that are all empty": ([law("blank.jsonl")], r"/blank\.jsonl, split 'train': all of its \d+ rows are"),
    "an empty completion": ([law("empty.jsonl", **PAIRS)],
        r"task 'law': .*/empty\.jsonl, split 'train', row 17: the completion is empty, .*; fix the row"),
    "a chat in which nobody answers": ([law("mute.jsonl", messages="messages")],
        r"/mute\.jsonl, split 'train', row 17: the assistant says nothing in column 'messages'"),
    "a chat template that fails on row 17": (
        [law("good.jsonl", messages="messages"), f"model.chat_template={json.dumps(RAISING)}"],
        r"/good\.jsonl, split 'train', row 17: the chat template fails: roles must alternate; fix the row, or give"),
    "no chat template": ([law("good.jsonl", messages="messages")], r"row \d+: the tokenizer has no chat template: "),
    "a prompt that fills the context": ([law("long.jsonl", **PAIRS)],
        r"/long\.jsonl, split 'train', row 17: the prompt has \d+ tokens, and a sequence takes 32, so nothing .*"),
    "a prompt that fills it, in the test split": ([law("split", **PAIRS)],
        r"/split, split 'test', row 17: the prompt has .* raise data\.max_length, shorten the prompt, or leave"),
    "a sequence that is longer than the context": ([law("good.jsonl", text="text", max_length=33)],
        r"task 'law': data\.max_length: 33 tokens are more than the 32 that the model takes; give 32 or fewer"),
    "text that is not UTF-8": ([law("latin.txt")], r"task 'law': .*/latin\.txt, line 18: it is not UTF-8 text"),
    "a hub data set without network": (["tasks.0.data.path=nobody/nothing"],
        r"task 'law': the data set 'nobody/nothing' could not be opened: .*needs the network"),
    "a hub model without network": (["model.name=nobody/nothing"], r"model\.name: nobody/nothing could not be opened"),
    "a hub tokenizer without network": (["model.tokenizer=nobody/nothing"],
        r"model\.tokenizer: nobody/nothing: .*needs the network or a filled cache"),
    "a tokenizer without eos and pad": (["model.name=FOLDER/endless"],
        r"model\.tokenizer: .*/endless has no end-of-text token, .* save it again with tokenizer\.eos_token set"),
    "a tokenizer that is larger than the model": (["model.name=FOLDER/large"],
        r"model\.tokenizer: it has \d+ tokens, the model embeddings for 300; use the tokenizer"),
    "a model that looks both ways": (["model.name=FOLDER/both-ways"], r"model: not a causal language model"),
    "a configuration that looks both ways": (
        [f"model={json.dumps({'config': {'model_type': 'bert', **BERT}, 'tokenizer': 'FOLDER/gpt2'})}"],
        r"model: not a causal language model: its output at a token depends .* is_decoder: true"),
    "a model of another kind": (
        ["model.name=FOLDER/t5"], r"the model, t5, reads a prompt with its encoder .* these data are plain texts"),
    "a model without a head for tokens": (["model.name=FOLDER/headless"],
        r"/headless is not a causal language model: it has no weights for 'lm_head\.weight'; name a model"),
    "an unknown metric": (["metrics=[los]"], r"metrics\.0: unknown metric 'los'\. Did you mean 'loss'\? Known: "),
    "a classifier's metric": (["metrics=[accuracy]"], r"metrics: accuracy: this score is for a classifier"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    mistake: str, folder: Path, stockpot: Callable[..., Any], tmp_path: Path
) -> None:
    changes, message = MISTAKES[mistake]
    changes = [change.replace("FOLDER", str(folder)) for change in changes]
    done = stockpot("run", folder / "recipe.yaml", *changes, "-o", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"Error: [^\n]+\n", done.err), done.err
    assert re.search(message, done.err), done.err
    assert len(done.err) < 600
    assert not (tmp_path / "run").exists()
