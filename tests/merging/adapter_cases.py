"""Tiny models and PEFT adapters for the tests of merging adapters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from stockpot import StockpotError
from stockpot.merging.read.adapter_source import AdapterSource
from stockpot.merging.read.inputs import open_model
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec

State = dict[str, Tensor]


Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


def save_llama(folder: Path) -> Path:
    """Saves a tiny Llama in float64."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=32,
    )  # fmt: skip
    LlamaForCausalLM(config).double().save_pretrained(folder)
    return folder


def llama(base: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    return model


def randomised(model: nn.Module, seed: int) -> None:
    """Fills every trained tensor with random numbers: PEFT starts with B = 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def adapter(base: Path, name: str, seed: int = 1, **settings: Any) -> Path:
    """An adapter of PEFT's over a Llama, with random factors."""
    model = get_peft_model(llama(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    randomised(model, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(base.parent / name)
    return base.parent / name


def peft_merged(base: Path, *folders: Path) -> State:
    """The base with an adapter merged in by PEFT."""
    return PeftModel.from_pretrained(llama(base), folders[0]).merge_and_unload().state_dict()


def deltas(base: Path, folder: Path) -> State:
    """ΔW of every adapted tensor, by PEFT."""
    model = PeftModel.from_pretrained(llama(base), folder)
    return {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def in_peft(base: Path, folder: Path) -> nn.Module:
    """The adapter loaded by PEFT, with all of its tensors and without any missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        model = PeftModel.from_pretrained(llama(base), folder)
    assert set(get_peft_model_state_dict(model)) == set(load_file(folder / "adapter_model.safetensors"))
    return model


def weights(base: Path) -> State:
    return load_file(base / "model.safetensors")


def within_one_ulp(base: Path, folder: Path, result: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Asserts equality to one unit in the last place of the largest summand."""
    assert set(result) == set(expected)
    source = source_of(base, folder)
    for name, start in weights(base).items():
        largest = torch.maximum(start.abs(), expected[name].abs())
        if name in source.factors:
            left, right = source.matrices(name, torch.float64)
            largest = torch.maximum(largest, (left.abs() @ right.abs()).mul_(source.factors[name].scale))
        ulp = np.spacing(largest.numpy())
        assert (np.abs((result[name] - expected[name]).numpy()) <= ulp).all(), name


def close(result: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(result) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-13, atol=1e-15)


def changed(folder: Path, to: Path, **settings: Any) -> Path:
    """A copy of an adapter with other settings."""
    to.mkdir()
    config = json.loads((folder / "adapter_config.json").read_text()) | settings
    (to / "adapter_config.json").write_text(json.dumps(config))
    save_file(load_file(folder / "adapter_model.safetensors"), to / "adapter_model.safetensors")
    return to


def with_tensors(folder: Path, to: Path, change: Callable[[State], State]) -> Path:
    """A copy of an adapter with other tensors."""
    changed(folder, to)
    tensors = change(load_file(folder / "adapter_model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, to / "adapter_model.safetensors")
    return to


def spec_of(rule: str, *models: Path | str, base: Path | None = None, **parameters: Any) -> MergeSpec:
    each = parameters.pop("weights", [1.0] * len(models))
    specs = tuple(MergeModel(str(model), {"weight": weight}) for model, weight in zip(models, each, strict=True))
    return MergeSpec(rule, specs, str(base) if base else None, parameters)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(StockpotError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Mixed(nn.Module):
    """One of every kind of layer, some with names that end like others."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 6)])
        self.more = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(6, 5)])})
        self.crossed = Conv1D(10, 6)  # transformers': it stores (in, out)
        self.square = Conv1D(6, 6)
        self.image = nn.Conv2d(3, 5, (3, 2))
        self.point = nn.Conv2d(3, 5, 1)
        self.series = nn.Conv1d(3, 4, 5)


def written(folder: Path, state: State, factors: State, **config: Any) -> AdapterSource:
    """A base and an adapter from tensors."""
    for name in ("base", "adapter"):
        (folder / name).mkdir(parents=True)
    save_file(state, folder / "base" / "model.safetensors")
    save_file(factors, folder / "adapter" / "adapter_model.safetensors")
    text = json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder / "base")} | config)
    (folder / "adapter" / "adapter_config.json").write_text(text)
    return source_of(folder / "base", folder / "adapter")


def source_of(base: Path, folder: Path) -> AdapterSource:
    own = open_model(folder, str(folder), stem="adapter_model")
    return AdapterSource(open_model(base, str(base)), own, folder, str(folder))


def mixed(folder: Path, seed: int = 0, **settings: Any) -> tuple[Path, Path, dict[str, Tensor]]:
    """A base with an adapter of PEFT's, and PEFT's ΔW by the base's names."""
    torch.manual_seed(5)
    module = Mixed().double()
    (folder / "base").mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), folder / "base" / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(module, LoraConfig(**settings))
        randomised(model, seed)
        model.save_pretrained(folder / f"adapter{seed}")
    result = {
        f"{name.removeprefix('base_model.model.')}.weight": layer.get_delta_weight("default").detach()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    return folder / "base", folder / f"adapter{seed}", result


A_KEY = f"base_model.model.{Q[:-7]}.lora_A.weight"


B_KEY = f"base_model.model.{Q[:-7]}.lora_B.weight"
