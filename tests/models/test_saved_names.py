"""A saved model is found under the names that the model has, whether a folder or a file is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import MixtralConfig, MixtralForCausalLM, ViTConfig, ViTForImageClassification

from stockpot import SFA
from stockpot.models.lora import LoraSpec, attach
from stockpot.models.names import plain_name, under_own_names
from stockpot.models.spec import ModelSpec
from stockpot.models.start import start_model
from stockpot.models.store import load_model, save_model
from stockpot.weights.checkpoint import open_checkpoint


def tiny(seed: int) -> ViTForImageClassification:
    torch.manual_seed(seed)
    settings = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **settings))


@pytest.mark.parametrize("place", ["folder", "file", "own names without the head"])
def test_an_anchor_on_disk_is_found_by_the_names_of_the_model(place: str, tmp_path: Path) -> None:
    anchor, model = tiny(0), tiny(1)
    path, new = tmp_path, ()
    if place == "own names without the head":
        path, new = tmp_path / "own.safetensors", ("classifier.*",)
        save_file({name: value for name, value in anchor.state_dict().items() if "classifier" not in name}, path)
    else:
        anchor.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors" if place == "file" else tmp_path
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sfa = SFA(model, beta=1.0, p=1.0, total_steps=1, anchor=path, new=new)
    sfa.step()
    assert sfa.anchor_bytes == 0
    for (name, tensor), wanted in zip(model.named_parameters(), anchor.parameters(), strict=True):
        assert torch.equal(tensor, before[name] if new and name.startswith("classifier") else wanted)


def experts(seed: int) -> MixtralForCausalLM:
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads))


def test_experts_that_are_fused_in_memory_and_apart_on_disk_are_put_together(tmp_path: Path) -> None:
    anchor, model = experts(0), experts(1)
    anchor.save_pretrained(tmp_path)
    sfa = SFA(model, beta=1.0, p=1.0, total_steps=1, anchor=tmp_path)
    sfa.step()
    for (name, tensor), wanted in zip(model.named_parameters(), anchor.parameters(), strict=True):
        assert torch.equal(tensor, wanted), name


def test_a_built_model_keeps_its_type_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    spec = ModelSpec(build="builders:double")
    model = start_model(spec, rows=3, seed=0)
    save_model(model, tmp_path, spec, rows=3)
    again = load_model(tmp_path, allow_code=True)
    for (name, tensor), (_, reloaded) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert tensor.dtype == reloaded.dtype == torch.float64, name
        assert torch.equal(tensor, reloaded), name


def test_a_model_that_carries_an_adapter_finds_its_weights_by_the_plain_names(tmp_path: Path) -> None:
    plain = tiny(0)
    plain.save_pretrained(tmp_path)
    wanted = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    settings = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["classifier"], "bias": "all"}
    adapted = attach(plain, LoraSpec.model_validate(settings), seed=0)
    found, mapped = under_own_names(open_checkpoint(tmp_path), adapted)
    assert mapped
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    trained = {plain_name(name) for name, tensor in adapted.named_parameters() if tensor.requires_grad}
    assert trained == {name for name in wanted if name.endswith(("bias", "q_proj.weight", "classifier.weight"))}
