"""Merged folders loaded by Transformers: every tensor is there, and is what the rule's formula gives."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from stockpot.merging.api import Options, merge
from stockpot.merging.execute import merge_into
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec, Slice, SliceSource
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint

State = Mapping[str, Tensor]
SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
TEXT: dict[str, Any] = SMALL | {"vocab_size": 40, "max_position_embeddings": 32}


def llama(**more: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**(TEXT | {"num_key_value_heads": 1} | more)))


def tied_llama() -> PreTrainedModel:
    return llama(tie_word_embeddings=True)


def bert() -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(**TEXT))


def vit() -> PreTrainedModel:
    return ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4, num_labels=3))


def mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(MixtralConfig(**TEXT, num_key_value_heads=1, num_local_experts=3))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=40))


FAMILIES: list[Callable[[], PreTrainedModel]] = [llama, tied_llama, bert, vit, mixtral, gpt2]


def family(build: Callable[[], PreTrainedModel], folder: Path, **saving: Any) -> tuple[Path, Path, Path]:
    """A base and two models fine-tuned from it, saved."""
    model = build()
    paths = (folder / "base", folder / "one", folder / "two")
    model.save_pretrained(paths[0], **saving)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for path in paths[1:]:
        model.load_state_dict(start)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(path, **saving)
    return paths


def loaded(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """Loads the model in a folder, which must hold exactly the tensors that the model expects."""
    model, result = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(result.values()), result
    return model


def wide(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in model.state_dict().items()}


def assert_close(result: State, expected: State) -> None:
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name].double(), tensor.double(), rtol=1e-5, atol=1e-6, msg=name)


def by_file(formula: Callable[[list[Tensor]], Tensor], *folders: Path) -> dict[str, Tensor]:
    """The formula on every tensor as it is named in the files, in float64."""
    opened = [open_checkpoint(folder) for folder in folders]
    return {name: formula([checkpoint[name].double() for checkpoint in opened]) for name in opened[0]}


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("shards", ["5GB", "8KB"])
def test_the_weighted_average_of_two_models_loads_as_the_average(
    build: Callable[[], PreTrainedModel], shards: str, tmp_path: Path
) -> None:
    _, one, two = family(build, tmp_path, max_shard_size=shards)
    merge("linear", [one, two], output=tmp_path / "out", weight=[1.0, 3.0], options=Options(max_shard_size=shards))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > (shards == "8KB")
    kind = type(build())
    first, second = (wide(loaded(kind, path)) for path in (one, two))
    assert_close(wide(loaded(kind, tmp_path / "out")), {name: (first[name] + 3 * second[name]) / 4 for name in first})


def ties(base: list[Tensor], models: list[list[Tensor]], density: float) -> list[Tensor]:
    """TIES of whole models, written as its paper writes it."""
    start = torch.cat([tensor.flatten() for tensor in base])
    trimmed = []
    for model in models:
        vector = torch.cat([tensor.flatten() for tensor in model]) - start
        top = vector.abs().sort(descending=True, stable=True).indices[: int(density * vector.numel())]
        trimmed.append(torch.zeros_like(vector).index_copy_(0, top, vector[top]))
    stacked = torch.stack(trimmed)
    agrees = stacked.sign() == stacked.sum(0).sign()
    counted = (agrees & (stacked != 0)).sum(0).clamp(min=1)
    merged = start + (stacked * agrees).sum(0) / counted
    parts = merged.split([tensor.numel() for tensor in base])
    return [part.view_as(tensor) for part, tensor in zip(parts, base, strict=True)]


@pytest.mark.parametrize("build", [tied_llama, bert, mixtral, gpt2])
def test_ties_over_the_whole_model_loads_as_its_formula(build: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    paths = family(build, tmp_path)
    merge("ties", paths[1:], paths[0], tmp_path / "out", density=0.3)
    loaded(type(build()), tmp_path / "out")
    files = [open_checkpoint(path) for path in paths]
    names = sorted(files[0])
    base, *models = [[file[name].double() for name in names] for file in files]
    result = open_checkpoint(tmp_path / "out")
    assert_close(result, dict(zip(names, ties(base, models, 0.3), strict=True)))


@pytest.mark.parametrize("build", [llama, vit, mixtral])
def test_slerp_turns_every_tensor_of_the_files(build: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    _, one, two = family(build, tmp_path)
    merge("slerp", [one, two], output=tmp_path / "out", t=0.3)
    loaded(type(build()), tmp_path / "out")

    def formula(models: list[Tensor]) -> Tensor:
        first, second = models
        if not first.norm() or not second.norm():
            return first.lerp(second, 0.3)
        cosine = (first.flatten() @ second.flatten() / first.norm() / second.norm()).clamp(-1, 1)
        if cosine.abs() > 0.9995:
            return first.lerp(second, 0.3)
        angle = float(cosine.acos())
        return (math.sin(0.7 * angle) * first + math.sin(0.3 * angle) * second) / math.sin(angle)

    assert_close(open_checkpoint(tmp_path / "out"), by_file(formula, one, two))


def stacked(path: Path, *ranges: tuple[int, int]) -> MergeSpec:
    slices = tuple(Slice((SliceSource(str(path), first, last),)) for first, last in ranges)
    return MergeSpec("passthrough", slices=slices)


def test_four_layers_stacked_to_six_load_and_run(tmp_path: Path) -> None:
    model = llama(num_hidden_layers=4).eval()
    model.save_pretrained(tmp_path / "four")
    merge_into(stacked(tmp_path / "four", (0, 3), (1, 4)), tmp_path / "six", Options())
    six = loaded(LlamaForCausalLM, tmp_path / "six").eval()
    assert six.config.num_hidden_layers == 6
    words = torch.arange(5)[None]
    # The same layers, one after the other in the model that they come from.
    model.model.layers = torch.nn.ModuleList([model.model.layers[i] for i in (0, 1, 2, 1, 2, 3)])
    model.config.num_hidden_layers = 6
    with torch.no_grad():
        assert torch.equal(six(words, use_cache=False).logits, model(words, use_cache=False).logits)


def test_the_kinds_of_the_layers_go_with_the_layers(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    config = Qwen3Config(
        **(TEXT | {"num_hidden_layers": 4}), head_dim=8, num_key_value_heads=1, layer_types=kinds,
        use_sliding_window=True, sliding_window=4, max_window_layers=0,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "four")
    merge_into(stacked(tmp_path / "four", (0, 2), (1, 4)), tmp_path / "five", Options())
    five = loaded(Qwen3ForCausalLM, tmp_path / "five")
    assert five.config.layer_types == [kinds[i] for i in (0, 1, 1, 2, 3)]


def test_a_head_that_the_merge_made_another_than_the_embedding_counts(tmp_path: Path) -> None:
    base, one, two = family(tied_llama, tmp_path)
    heads = {}
    for path in (base, one, two):
        state = dict(open_checkpoint(path))
        heads[path] = state["lm_head.weight"] = state["model.embed_tokens.weight"] + torch.randn(40, 16)
        save_checkpoint({name: tensor.clone() for name, tensor in state.items()}, path / "model.safetensors")
    merge("linear", [one, two], output=tmp_path / "out")
    merged = loaded(LlamaForCausalLM, tmp_path / "out")
    assert merged.config.tie_word_embeddings is False
    torch.testing.assert_close(merged.lm_head.weight.data, (heads[one] + heads[two]) / 2)
    notes = json.loads((tmp_path / "out" / "stockpot_merge.json").read_text())["notes"]
    assert any("'lm_head.weight' differs from 'model.embed_tokens.weight'" in note for note in notes)


def test_a_head_that_equals_the_embedding_stays_tied(tmp_path: Path) -> None:
    _, one, two = family(tied_llama, tmp_path)
    for path in (one, two):
        state = {name: tensor.clone() for name, tensor in open_checkpoint(path).items()}
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
        save_checkpoint(state, path / "model.safetensors")
    merge("linear", [one, two], output=tmp_path / "out")
    merged = loaded(LlamaForCausalLM, tmp_path / "out")
    assert merged.config.tie_word_embeddings is True
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_the_output_loads_in_the_type_that_was_asked_for(tmp_path: Path) -> None:
    _, one, two = family(llama, tmp_path)
    merge("linear", [one, two], output=tmp_path / "out", dtype="bfloat16")
    assert loaded(LlamaForCausalLM, tmp_path / "out").dtype == torch.bfloat16
    assert json.loads((one / "config.json").read_text())["dtype"] == "float32"


def test_merged_adapters_load_as_the_model_that_they_belong_to(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    adapted = []
    for name in ("one", "two"):
        start = LlamaForCausalLM.from_pretrained(tmp_path / "base")
        model = get_peft_model(start, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(str(tmp_path / name))
        adapted.append(wide(model.merge_and_unload()))
    expected = {name: (tensor + 3 * adapted[1][name]) / 4 for name, tensor in adapted[0].items()}
    merge("linear", [tmp_path / "one", tmp_path / "two"], output=tmp_path / "out", weight=[1.0, 3.0])
    assert_close(wide(loaded(LlamaForCausalLM, tmp_path / "out")), expected)


def tokenizer(folder: Path, word: str) -> None:
    """A tokenizer of two words."""
    plain = Tokenizer(WordLevel({"[UNK]": 0, word: 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]").save_pretrained(folder)


@pytest.mark.parametrize(("source", "word"), [(None, "base"), ("base", "base"), ("one", "one"), ("two", "two")])
def test_the_tokenizer_is_that_of_the_named_donor(source: str | None, word: str, tmp_path: Path) -> None:
    paths = family(llama, tmp_path)
    for path in paths:
        tokenizer(path, path.name)
    named = str(tmp_path / source) if source in ("one", "two") else source
    spec = MergeSpec("linear", tuple(MergeModel(str(path)) for path in paths[1:]), str(paths[0]), tokenizer=named)
    merge_into(spec, tmp_path / "out", Options())
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == {"[UNK]": 0, word: 1}


def test_without_a_base_the_tokenizer_is_that_of_the_first_model_whatever_the_others_have(tmp_path: Path) -> None:
    _, one, two = family(llama, tmp_path)
    tokenizer(two, "two")
    merge("linear", [one, two], output=tmp_path / "out")
    assert not list((tmp_path / "out").glob("tokenizer*"))
    tokenizer(one, "one")
    merge("linear", [one, two], output=tmp_path / "again")
    assert "one" in AutoTokenizer.from_pretrained(tmp_path / "again").get_vocab()
