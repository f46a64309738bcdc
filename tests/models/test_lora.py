"""An adapter for each task: folded into the base, or stacked beside it, without changing a logit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from stockpot import SFA, StockpotError
from stockpot.models.lora import LoraSpec, activate, attach, fold_adapter, load_adapter, save_adapter, stack

X = torch.randint(32, (3, 8), generator=torch.Generator().manual_seed(5))


def llama(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=2, vocab_size=32, max_position_embeddings=32, **settings)  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=32)).double().eval()


def spec(**settings: Any) -> LoraSpec:
    return LoraSpec(**{"r": 3, "lora_alpha": 5, **settings})


def move(model: nn.Module, seed: int) -> None:
    """Gives every trainable tensor some other numbers, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor) * 0.1)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=X).logits
    return result


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_a_new_adapter_changes_nothing_and_is_drawn_from_the_seed_alone() -> None:
    expected = logits(llama())
    before = torch.get_rng_state()
    one = attach(llama(), spec(), seed=1)
    torch.set_rng_state(before)
    torch.rand(7)
    twin, other = attach(llama(), spec(), seed=1), attach(llama(), spec(), seed=2)
    assert torch.equal(logits(one), expected)
    drawn = [dict(model.named_parameters()) for model in (one, twin, other)]
    names = [name for name, tensor in drawn[0].items() if tensor.requires_grad]
    assert len(names) == 2 * 2 * 7
    assert all("lora_A.task" in name or "lora_B.task" in name for name in names)
    for name in names:
        assert torch.equal(drawn[0][name], drawn[1][name])
        assert torch.equal(drawn[0][name], drawn[2][name]) is ("lora_B" in name)


def test_attach_leaves_the_random_numbers_of_others_alone() -> None:
    model = llama()
    state = torch.get_rng_state()
    attach(model, spec(), seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_acts_in_training_only() -> None:
    model = attach(llama(), spec(lora_dropout=0.5), seed=1)
    move(model, 1)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(model(input_ids=X).logits, model(input_ids=X).logits)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"bias": "all", "target_modules": ["q_proj"]},
    ],
    ids=["plain", "rank-stabilised", "whole layers", "embedding", "biases"],
)
def test_the_folded_model_is_plain_and_has_the_logits_of_the_adapted_one(settings: dict[str, Any]) -> None:
    base = llama(attention_bias=True)
    base.model.embed_tokens.weight.requires_grad_(False)
    names = {name: tensor.shape for name, tensor in base.state_dict().items()}
    flags = {name: tensor.requires_grad for name, tensor in base.named_parameters()}
    start = logits(base)
    model = attach(base, spec(**settings), seed=1)
    move(model, 1)
    expected = logits(model)
    plain = fold_adapter(model)
    close(logits(plain), expected)
    assert float((expected - start).abs().max()) > 1e-3
    assert {name: tensor.shape for name, tensor in plain.state_dict().items()} == names
    assert {name: tensor.requires_grad for name, tensor in plain.named_parameters()} == flags
    assert type(plain) is LlamaForCausalLM


def test_gpt2_with_its_tied_head_folds_and_stays_tied() -> None:
    model = attach(gpt2(), spec(), seed=1)
    move(model, 1)
    expected = logits(model)
    plain = fold_adapter(model)
    close(logits(plain), expected)
    assert plain.lm_head.weight is plain.transformer.wte.weight


def test_the_average_of_a_task_is_that_of_the_folded_weights() -> None:
    start = llama().state_dict()
    folded = []
    for beta in (0.0, 0.25):
        model = attach(llama(), spec(use_rslora=True, modules_to_save=["lm_head"]), seed=1)
        sfa = SFA(model, beta=beta, every=1)
        move(model, 1)
        sfa.step()
        folded.append(fold_adapter(model).state_dict())
    for name, tensor in folded[1].items():
        close(tensor, 0.75 * folded[0][name] + 0.25 * start[name])


def two_tasks(base: nn.Module, how: str, **settings: Any) -> nn.Module:
    """Two tasks by the same adapters, the first folded or stacked before the second begins."""
    model: Any = base
    for task in (1, 2):
        adapted = attach(model, spec(**settings), seed=task)
        generator = torch.Generator().manual_seed(task)
        with torch.no_grad():
            for name, tensor in adapted.named_parameters():
                if ".task" in name and "lora_" in name:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        model = fold_adapter(adapted) if how == "fold" else stack(adapted)
    result: nn.Module = model
    return result


TARGETS: dict[str, dict[str, Any]] = {
    "all linear": {},
    "rank-stabilised": {"use_rslora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("settings", TARGETS.values(), ids=list(TARGETS))
def test_two_tasks_stacked_are_two_tasks_folded_also_from_disk(settings: dict[str, Any], tmp_path: Path) -> None:
    expected = logits(two_tasks(llama(), "fold", **settings))
    model: Any = two_tasks(llama(), "stack", **settings)
    close(logits(model), expected)
    assert float((expected - logits(llama())).abs().max()) > 1e-3
    assert not any(tensor.requires_grad for tensor in model.parameters())
    save_adapter(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".md") == [
        "adapter_config.json", "adapter_model.safetensors"]  # fmt: skip
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["task_type"]) == (6, 6, False, "CAUSAL_LM")
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), str(tmp_path))), logits(model))
    assert torch.equal(logits(load_adapter(llama(), tmp_path)), logits(model))
    close(logits(fold_adapter(load_adapter(llama(), tmp_path))), expected)


def test_gpt2_stacks_too(tmp_path: Path) -> None:
    model: Any = two_tasks(gpt2(), "stack")
    close(logits(model), logits(two_tasks(gpt2(), "fold")))
    save_adapter(model, tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), str(tmp_path))), logits(model))


def test_layers_that_only_one_task_adapts_stack_as_well() -> None:
    stacked, folded = llama(), llama()
    for task, target in ((1, "q_proj"), (2, "up_proj")):
        stacked, folded = (attach(model, spec(target_modules=[target]), seed=task) for model in (stacked, folded))
        move(stacked, task)
        move(folded, task)
        stacked, folded = stack(stacked), fold_adapter(folded)
    close(logits(stacked), logits(folded))


def test_bf16_bases_are_stacked_exactly_and_never_folded() -> None:
    base = llama().bfloat16()
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = attach(base, spec(), seed=1)
    with pytest.raises(StockpotError, match=r"'model.layers.0.self_attn.q_proj' is bfloat16: .* output: adapter"):
        fold_adapter(model)
    move(model, 1)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    delta = layer.get_delta_weight("task")
    stacked: Any = stack(model)
    assert torch.equal(stacked.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight,
                       start["model.layers.0.self_attn.q_proj.weight"])  # fmt: skip
    whole = stacked.get_base_model().model.layers[0].self_attn.q_proj
    assert whole.lora_B["past"].weight.dtype == torch.float32
    torch.testing.assert_close(whole.get_delta_weight("past"), delta, rtol=1e-5, atol=1e-7)
    weight = start["model.layers.0.self_attn.q_proj.weight"]
    small = delta * (1e-3 * weight.norm() / delta.norm())
    unmoved = (weight.float() + small).bfloat16() == weight  # why it is not folded
    assert float(unmoved.float().mean()) > 0.5


class Eighths(nn.Linear):
    """A quantised layer: whole numbers, which stand for eighths."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.weight = nn.Parameter((plain.weight * 8).round().to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) / 8)


def test_adapters_on_a_quantised_base_are_stacked_beside_it_and_never_folded() -> None:
    base: Any = llama(initializer_range=1.0)
    for layer in base.model.layers:
        layer.mlp.up_proj = Eighths(layer.mlp.up_proj)
    start = base.model.layers[0].mlp.up_proj.weight.clone()
    for task in (1, 2):
        base = attach(base, spec(target_modules=["up_proj"]), seed=task)
        sfa = SFA(base, beta=0.25, every=1)
        move(base, task)
        sfa.step()
        assert sfa.anchor_bytes == 0
        expected = logits(base)
        with pytest.raises(StockpotError, match=r"'model.layers.0.mlp.up_proj' is int8: ΔW would round away"):
            fold_adapter(base)
        base = stack(base)
        torch.testing.assert_close(logits(base), expected, rtol=0, atol=1e-5)  # factors are fp32
    assert torch.equal(base.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight, start)


def test_the_past_stays_active_and_frozen_beside_the_task(tmp_path: Path) -> None:
    model: Any = stack_of_one(tmp_path)
    expected = logits(model)
    adapted = attach(model, spec(), seed=2)
    assert torch.equal(logits(adapted), expected)
    trained = [name for name, tensor in adapted.named_parameters() if tensor.requires_grad]
    assert trained
    assert all(".task." in name for name in trained)
    assert SFA(adapted, beta=0.25, every=1).factors == 14
    adapted.set_adapter("task")  # as the Trainer does when it resumes
    assert not torch.allclose(logits(adapted), expected)
    activate(adapted)
    assert torch.equal(logits(adapted), expected)
    assert [name for name, tensor in adapted.named_parameters() if tensor.requires_grad] == trained


def stack_of_one(folder: Path) -> PeftModel:
    model = attach(llama(), spec(), seed=1)
    move(model, 1)
    save_adapter(stack(model), folder)
    return load_adapter(llama(), folder)


def refusal(model: nn.Module, **settings: Any) -> str:
    with pytest.raises(StockpotError) as caught:
        attach(model, spec(**settings), seed=1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_adapters_on_tied_weights_are_refused() -> None:
    for settings in ({"target_modules": ["wte"]}, {"modules_to_save": ["wte"]}, {"modules_to_save": ["lm_head"]}):
        assert "shares its weight with another layer" in refusal(gpt2(), **settings)


def test_what_cannot_be_attached_stacked_or_loaded_is_refused(tmp_path: Path) -> None:
    assert "has no module 'q_prj'. Did you mean 'q_proj'?" in refusal(llama(), target_modules=["q_prj", "up_proj"])
    model = attach(llama(), spec(), seed=1)
    assert "already has an adapter 'task'" in refusal(model)
    with pytest.raises(StockpotError, match="call stack"):
        save_adapter(model, tmp_path)
    with pytest.raises(StockpotError, match=r"is not a PEFT adapter: it has no adapter_config.json"):
        load_adapter(llama(), tmp_path)
    with pytest.raises(StockpotError, match="train without modules_to_save and bias"):
        stack(attach(llama(), spec(modules_to_save=["lm_head"]), seed=1))
    image = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(StockpotError, match="'0' is a convolution with groups"):
        stack(attach(image, spec(r=2, target_modules=["0"]), seed=1))


def test_the_block_of_the_recipe_knows_its_keys() -> None:
    assert LoraSpec().model_dump() == {
        "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear", "use_rslora": False,
        "modules_to_save": None, "bias": "none", "output": "merged",
    }  # fmt: skip
    for key, value in {"use_dora": True, "r": 0, "lora_dropout": 1.0, "output": "both"}.items():
        with pytest.raises(ValidationError, match=key):
            LoraSpec(**{key: value})
    with pytest.raises(ValidationError, match="use output: merged with modules_to_save"):
        LoraSpec(output="adapter", modules_to_save=["lm_head"])
