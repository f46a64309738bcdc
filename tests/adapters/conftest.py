"""A tiny Llama with its tokenizer on disk, as a hub would give it, and a stream of two tasks for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stockpot.models.tokenizer import train_tokenizer
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe

WORDS = {"law": "court judge appeal the", "math": "one two plus equals"}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("hub") / "base"
    torch.manual_seed(0)
    tokenizer = train_tokenizer(list(WORDS.values()) * 5, 300)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=32, vocab_size=300,
                         initializer_range=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=None)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A base\n")
    return folder


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two tasks of short texts."""
    folder = tmp_path_factory.mktemp("texts")
    for name, words in WORDS.items():
        rows = [{"text": " ".join(words.split()[place % 4 :] * 3)} for place in range(16)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"name": name, "data": {"path": str(folder / f"{name}.jsonl"), "text": "text"}} for name in WORDS]


@pytest.fixture
def recipe(tasks: list[dict[str, Any]]) -> Callable[..., Recipe]:
    """`recipe({"name": …}, method={…})`: both tasks, six steps each."""
    train = {"num_train_epochs": 2, "per_device_train_batch_size": 5, "learning_rate": 2e-2, "use_cpu": True}

    def make(model: dict[str, Any], **changes: Any) -> Recipe:
        values = {"model": model, "scenario": "language", "data": {"max_length": 16}, "tasks": tasks, "train": train}
        return validate(Recipe, {**values, **changes}, "here")

    return make


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`hub("acme/lora", folder)` puts a folder into the hub's cache, offline; the base is `acme/base` there."""
    import huggingface_hub.constants

    from stockpot.models import named_adapter

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(named_adapter, "_downloaded", named_adapter._downloaded.__wrapped__)

    def put(name: str, folder: Path, commit: str = "1" * 40) -> str:
        place = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        return name

    put("acme/base", base)
    return put
