"""Somebody's adapter as the start: folded or stacked, it computes what PEFT computes with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiers import sample
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from stockpot.api.pushing import push
from stockpot.api.run_result import RunResult
from stockpot.errors import StockpotError
from stockpot.models.lora import LoraSpec, is_stacked
from stockpot.models.named_adapter import named_adapter
from stockpot.models.spec import ModelSpec
from stockpot.models.start import build_start_model, start_model
from stockpot.models.tokenizer import open_tokenizer
from stockpot.recipe.schema import Recipe
from stockpot.runs.actions import continue_run, create_run
from stockpot.runs.folder import RunFolder

TEXT = torch.randint(270, (3, 8), generator=torch.Generator().manual_seed(5))
LORA = LoraSpec(r=2, output="adapter")
FACTORS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "ranks and alphas by pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 9.0}},
}
MORE: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "biases": {"bias": "lora_only"},
    "a whole layer": {"modules_to_save": ["lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
}


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=TEXT).logits
    return result


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def write_adapter(model: Any, folder: Path, **settings: Any) -> Path:
    """An adapter as PEFT saves it, whose every trained tensor is some way from its start."""
    config = LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "up_proj"],
                           "task_type": "CAUSAL_LM", **settings})  # fmt: skip
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in adapted.parameters():
            if tensor.requires_grad:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
    adapted.save_pretrained(folder)
    return folder


def opened(folder: Path) -> LlamaForCausalLM:
    model: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(folder)
    return model


@pytest.mark.parametrize("name", sample([*FACTORS, *MORE]))
def test_a_folded_adapter_is_a_plain_model_with_the_logits_of_the_adapted_one(
    name: str, base: Path, tmp_path: Path
) -> None:
    folder = write_adapter(opened(base), tmp_path / "lora", **{**FACTORS, **MORE}[name])
    expected = logits(PeftModel.from_pretrained(opened(base), str(folder)))
    assert float((expected - logits(opened(base))).abs().max()) > 0.1
    start = build_start_model(ModelSpec(name=str(folder)), 0, 0, "language")
    assert type(start.model) is LlamaForCausalLM
    assert start.drawn == []
    close(logits(start.model), expected)
    assert all(tensor.requires_grad for tensor in start.model.parameters())
    start.model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(opened(tmp_path / "saved")), logits(start.model))


@pytest.mark.parametrize("settings", FACTORS.values(), ids=list(FACTORS))
def test_a_stacked_adapter_is_frozen_beside_the_base_and_computes_the_same(
    settings: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    folder = write_adapter(opened(base), tmp_path / "lora", **settings)
    model: Any = start_model(ModelSpec(name=str(folder), lora=LORA), 0, 0, "language")
    assert is_stacked(model)
    assert not any(tensor.requires_grad for tensor in model.parameters())
    close(logits(model), logits(PeftModel.from_pretrained(opened(base), str(folder))))
    bare = model.unload().state_dict()
    assert all(torch.equal(tensor, bare[name]) for name, tensor in opened(base).state_dict().items())


def test_tokens_that_the_adapter_added_are_in_the_folded_model(base: Path, tmp_path: Path) -> None:
    model = opened(base)
    model.resize_token_embeddings(308, mean_resizing=False)
    folder = write_adapter(model, tmp_path / "lora")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(folder)
    stored = load_file(folder / "adapter_model.safetensors")
    start: Any = start_model(ModelSpec(name=str(folder)), 0, 0, "language", tokenizer)
    for name in ("model.embed_tokens", "lm_head"):
        assert torch.equal(start.get_submodule(name).weight, stored[f"base_model.model.{name}.weight"])
    assert start.config.vocab_size == 308
    with pytest.raises(StockpotError, match=r"a stack holds factors only: fold it \(adapter: fold\)"):
        start_model(ModelSpec(name=str(folder), lora=LORA), 0, 0, "language")
    assert "<call>" in open_tokenizer(ModelSpec(name=str(folder)), list).get_vocab()


@pytest.mark.parametrize(("rows", "taken"), [(4, True), (6, False)])
def test_a_classifiers_adapter_brings_its_output_layer_where_the_classes_are_as_many(
    rows: int, taken: bool, base: Path, tmp_path: Path
) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=4)
    folder = write_adapter(classifier, tmp_path / "lora", task_type="SEQ_CLS")
    stored = load_file(folder / "adapter_model.safetensors")
    start = build_start_model(ModelSpec(name=str(folder)), rows, 0, "text")
    assert start.model.score.weight.shape == (rows, 64)
    assert start.drawn == ([] if taken else ["score.weight"])
    if taken:
        assert torch.equal(start.model.score.weight, stored["base_model.model.score.weight"])
    factor = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    change = 5 / 3 * stored[factor.format("B")] @ stored[factor.format("A")]
    name = "model.layers.0.self_attn.q_proj.weight"
    close(start.model.state_dict()[name], opened(base).state_dict()[name] + change)


def test_an_image_classifiers_adapter_folds(tmp_path: Path) -> None:
    config = ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=24, num_labels=3)  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    model = ViTForImageClassification.from_pretrained(tmp_path / "vit")
    lora = write_adapter(model, tmp_path / "lora", target_modules="all-linear", task_type=None)
    expected = PeftModel.from_pretrained(ViTForImageClassification.from_pretrained(tmp_path / "vit"), str(lora))
    pixels = torch.randn(2, 3, 8, 8)
    start = build_start_model(ModelSpec(name=str(lora)), 3, 0)
    with torch.no_grad():
        close(start.model.eval()(pixels).logits, expected.eval()(pixels).logits)


def test_a_stream_on_a_stacked_adapter_leaves_one_adapter_for_the_hubs_base(
    recipe: Callable[..., Recipe], base: Path, tmp_path: Path, hub: Callable[..., str]
) -> None:
    lora = write_adapter(opened(base), tmp_path / "lora", revision="main")
    settings = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "acme/base"}))
    model = {"name": hub("acme/lora", lora), "lora": {"r": 2, "output": "adapter"}}
    chosen = recipe(model, method={"name": "sfa", "beta": 1.0, "p": 1.0})  # the average takes back what a task learnt
    create_run(chosen, chosen.method, 0, tmp_path / "run")
    result = RunResult(tmp_path / "run", continue_run(tmp_path / "run"))
    expected = logits(PeftModel.from_pretrained(opened(base), str(lora)))
    for after in ("start", "law", "math"):
        close(logits(result.model(after)), expected)
        written = json.loads((result.model_folder(after) / "adapter_config.json").read_text())
        assert (written["base_model_name_or_path"], written["revision"]) == ("acme/base", "main")
        assert written["r"] == {"start": 3, "law": 5, "math": 7}[after]  # the old adapter, and two for each task
        close(logits(AutoModelForCausalLM.from_pretrained(result.model_folder(after))), expected)
    assert sorted(path.name for path in RunFolder(tmp_path / "run").base.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors"]  # fmt: skip
    for after in ("start", "math"):  # the base that the start holds stays here
        pushed = result.push("acme/both", after=after, dry_run=True)
        assert set(pushed.files) - {"tokenizer.json", "tokenizer_config.json"} == {
            "README.md", "adapter_config.json", "adapter_model.safetensors"}  # fmt: skip
        data = ModelCard(pushed.card).data
        assert (data.base_model, data.license, data.library_name) == ("acme/base", "apache-2.0", "peft")
    written = (result.model_folder() / "README.md").read_text()
    assert ModelCard(written).data.license == "apache-2.0"


def test_a_run_goes_on_from_the_adapter_that_another_left(
    recipe: Callable[..., Recipe], base: Path, tmp_path: Path
) -> None:
    first = recipe({"name": str(base), "lora": {"r": 2, "output": "adapter"}}, method={"name": "sequential"})
    create_run(first, first.method, 0, tmp_path / "one")
    before = continue_run(tmp_path / "one").scores["loss"].matrix[-1]
    adapter = RunFolder.open(tmp_path / "one").model(1)
    again = recipe({"name": str(adapter), "lora": {"r": 2, "output": "adapter"}})
    create_run(again, again.method, 0, tmp_path / "two")
    initial = continue_run(tmp_path / "two").scores["loss"].initial
    assert initial == pytest.approx(before, abs=1e-5)
    base_of_it = json.loads((RunFolder.open(tmp_path / "two").model(1) / "adapter_config.json").read_text())
    assert base_of_it["base_model_name_or_path"] == str(tmp_path / "two" / "tasks" / "00-start" / "model" / "base")
    with pytest.raises(StockpotError, match=r"is on this machine only: push it first \(--after start\), or name"):
        push(tmp_path / "two", "acme/two", dry_run=True)
    pushed = push(tmp_path / "two", "acme/two", base="acme/base", dry_run=True)
    assert ModelCard(pushed.card).data.base_model == "acme/base"
    assert str(tmp_path) not in pushed.card


def test_the_base_may_be_named(base: Path, tmp_path: Path) -> None:
    lora = write_adapter(opened(base), tmp_path / "lora")
    elsewhere = shutil.copytree(base, tmp_path / "elsewhere")
    adapter = named_adapter(ModelSpec(name=str(lora), base=str(elsewhere)))
    assert adapter is not None
    assert (adapter.how, adapter.base.name, adapter.base.base) == ("fold", str(elsewhere), None)
    assert named_adapter(ModelSpec(name=str(base))) is None


def refusal(spec: ModelSpec) -> str:
    with pytest.raises(StockpotError) as caught:
        start_model(spec, 0, 0, "language")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(folder: Path, target: Path, **values: Any) -> str:
    """A copy of the adapter with other settings."""
    copy = shutil.copytree(folder, target)
    settings = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**settings, **values}))
    return str(copy)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "it is learnt input beside the model, not a change of weights"),
        ({"peft_type": "LOHA"}, "peft_type LOHA is not supported, only LORA: merge it with PEFT"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' also changes the base"),
        ({"layer_replication": [[0, 1]]}, "layer_replication=[[0, 1]] is not supported"),
        ({"megatron_config": {"a": 1}}, "megatron_config={'a': 1} is not supported"),
        ({"base_model_name_or_path": None}, "does not say which model it belongs to: name it as model.base"),
        ({"base_model_name_or_path": "/not/here"}, "belongs to /not/here, which is not here: name its base as"),
        ({"r": 4}, "does not fit"),
        ({"target_modules": ["q_proj"]}, "it has no place for 'model.layers.0.mlp.up_proj.lora_A"),
        ({"target_modules": ["q_proj", "up_proj", "down_proj"]}, "lacks 'model.layers.0.mlp.down_proj.lora_"),
    ],
)  # fmt: skip
def test_what_cannot_be_continued_is_refused_with_a_reason(
    values: dict[str, Any], words: str, base: Path, tmp_path: Path
) -> None:
    lora = write_adapter(opened(base), tmp_path / "lora")
    assert words in refusal(ModelSpec(name=changed(lora, tmp_path / "changed", **values)))


def test_pickles_code_and_chains_of_adapters_are_refused(base: Path, tmp_path: Path) -> None:
    lora = write_adapter(opened(base), tmp_path / "lora")
    chained = changed(lora, tmp_path / "chained", base_model_name_or_path=str(lora))
    assert "which is an adapter itself: fold that first" in refusal(ModelSpec(name=chained))
    assert "name it yourself as model.base" in refusal(ModelSpec(name=str(lora), trust_remote_code=True))
    pickled = shutil.copytree(lora, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    assert "pickles (.bin) are never loaded" in refusal(ModelSpec(name=str(pickled)))
    assert "is for adapters, and" in refusal(ModelSpec(name=str(base), adapter="fold"))
    assert "would round away in bfloat16 weights" in refusal(ModelSpec(name=str(lora), dtype="bfloat16"))
    classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=4)
    other = write_adapter(classifier, tmp_path / "classifier", task_type="SEQ_CLS")
    assert "no place for 'score.weight'; it was trained for SEQ_CLS" in refusal(ModelSpec(name=str(other)))


def test_what_a_stack_cannot_hold_is_refused_and_folding_named(base: Path, tmp_path: Path) -> None:
    dora = write_adapter(opened(base), tmp_path / "dora", use_dora=True)
    assert "use_dora=True (DoRA) is not supported" in (words := refusal(ModelSpec(name=str(dora), lora=LORA)))
    assert words.endswith("or fold it (adapter: fold) into fp32 weights.")
    whole = write_adapter(opened(base), tmp_path / "whole", modules_to_save=["lm_head"])
    assert "holds 'lm_head.weight' trained whole" in refusal(ModelSpec(name=str(whole), lora=LORA))


def test_an_adapter_on_tied_weights_is_refused(base: Path, tmp_path: Path) -> None:
    tied = opened(base)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    tied.save_pretrained(tmp_path / "tied")
    lora = write_adapter(opened(tmp_path / "tied"), tmp_path / "lora", target_modules=["lm_head", "q_proj"])
    assert "changes 'lm_head', which shares its weight with another layer" in refusal(ModelSpec(name=str(lora)))


def test_a_tensor_of_the_wrong_shape_is_named(base: Path, tmp_path: Path) -> None:
    lora = write_adapter(AutoModelForSequenceClassification.from_pretrained(base, num_labels=4), tmp_path / "lora",
                         task_type="SEQ_CLS")  # fmt: skip
    stored = load_file(lora / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    save_file({**stored, name: torch.zeros(7, 3)}, lora / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(StockpotError, match=r"no place for 'model\.layers\.0\.self_attn\.q_proj\.lora_B\.weight'"):
        start_model(ModelSpec(name=str(lora)), 4, 0, "text")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"config": {"model_type": "llama"}, "adapter": "fold"}, "it says how to start from an adapter"),
        ({"name": "a/b", "adapter": "stack"}, "set lora: {output: adapter}, or adapter: fold"),
        ({"name": "a/b", "adapter": "fold", "quantize": "4bit", "lora": LORA}, "set adapter: stack"),
    ],
)
def test_what_contradicts_itself_is_refused_in_the_recipe(model: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("{", r"\{").replace("}", r"\}")):
        ModelSpec(**model)
