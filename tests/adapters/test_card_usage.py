"""The example on a card is run as it stands."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from stockpot.report.card_usage import usage


def run(code: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(code.replace("max_new_tokens=100", "max_new_tokens=3"), "card", "exec"), names)
    return names


def test_a_language_model_goes_on_from_the_newest_tasks_prompt(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"tasks": [{"data": {"path": "a"}}, {"data": {"prompt": "Q: {question}\nA: "}}]}
    names = run(usage("language", recipe, str(base), adapter=False, chats=False), monkeypatch, tmp_path)
    assert names["tokenizer"].decode(names["inputs"]["input_ids"][0]).startswith("Q: …\nA: ")
    assert len(names["tokens"]) > names["inputs"]["input_ids"].shape[1]
    assert "Q: " not in capsys.readouterr().out
    assert "tokenizer('Once'" in usage("language", {"tasks": [{"data": {"prompt": "column"}}]}, "x", False, False)
    assert "tokenizer('Once'" in usage("language", {"tasks": {"split": 5}}, "x", adapter=False, chats=False)


def test_a_chat_model_is_asked_in_its_template(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(base, tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[bot]"
    tokenizer.save_pretrained(folder)
    names = run(usage("language", {}, str(folder), adapter=False, chats=True), monkeypatch, tmp_path)
    assert names["tokenizer"].decode(names["inputs"]["input_ids"][0]) == "[user]Hello![bot]"


def test_a_text_classifier_names_the_class(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label={0: "spam", 1: "ham"})
    model.save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "m")
    run(usage("text", {}, "m", adapter=False, chats=False), monkeypatch, tmp_path)
    assert capsys.readouterr().out.strip() in ("spam", "ham")


def test_several_labels_are_those_above_a_half_and_a_regression_is_numbers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label={0: "spam", 1: "late"})
    model.save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "m")
    recipe: dict[str, Any] = {"data": {"problem_type": "multi_label_classification"}}
    names = run(usage("text", recipe, "m", adapter=False, chats=False), monkeypatch, tmp_path)
    likely = [name for name, output in zip(("spam", "late"), names["outputs"].sigmoid(), strict=True) if output > 0.5]
    assert capsys.readouterr().out.strip() == str(likely)
    recipe = {"tasks": [{"data": {"problem_type": "regression"}}]}
    names = run(usage("text", recipe, "m", adapter=False, chats=False), monkeypatch, tmp_path)
    assert capsys.readouterr().out.strip() == str(names["outputs"].tolist())


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_classifier_names_the_class(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=24, num_channels=channels, id2label={0: "cat", 1: "dog"})  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "m")
    half = [0.5] * channels
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=half, image_std=half).save_pretrained(
        tmp_path / "m"
    )
    Image.new("RGB", (12, 12)).save(tmp_path / "picture.png")
    recipe = {"model": {"config": {"num_channels": channels}}}
    run(usage("image", recipe, "m", adapter=False, chats=False), monkeypatch, tmp_path)
    assert capsys.readouterr().out.strip() in ("cat", "dog")


@pytest.mark.parametrize("quantize", [None, "4bit", "8bit"])
def test_an_adapter_is_loaded_on_its_base_in_the_bits_that_it_was_trained_on(
    quantize: str | None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quantize:
        pytest.importorskip("bitsandbytes", reason="the extra `quantize` is not installed")
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "m")
    recipe = {"model": {"quantize": quantize, "lora": {"output": "adapter"}}}
    names = run(usage("language", recipe, "m", adapter=True, chats=False), monkeypatch, tmp_path)
    stored = names["model"].get_base_model().model.layers[0].mlp.up_proj.weight.dtype
    assert stored == {None: torch.float32, "4bit": torch.uint8, "8bit": torch.int8}[quantize]
