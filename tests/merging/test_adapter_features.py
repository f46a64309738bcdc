"""Every feature of a PEFT adapter that is read, against PEFT itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import adapter, changed, mixed, peft_merged, refusal, source_of, spec_of, weights, within_one_ulp
from safetensors.torch import load_file, save_file

from stockpot.merging.api import Options, merge
from stockpot.merging.execute import merge_identity
from stockpot.merging.plan.planned_merge import planned_merge
from stockpot.merging.read.adapter_source import AdapterSource

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["blocks.0", "blocks.1"], "r": 3, "lora_alpha": 5},
    "rank-stabilised": {"target_modules": ["blocks.0"], "r": 3, "lora_alpha": 5, "use_rslora": True},
    "rank_pattern by the end of the name": {
        "target_modules": r".*blocks\.\d", "r": 2, "lora_alpha": 6, "rank_pattern": {"0": 3, "blocks.0": 4, "s.1": 1},
    },
    "rank_pattern by the whole name": {
        "target_modules": r".*blocks\.\d", "r": 2, "lora_alpha": 6, "rank_pattern": {"^blocks.0": 3},
    },
    "alpha_pattern": {
        "target_modules": r".*blocks\.\d", "r": 2, "lora_alpha": 6, "alpha_pattern": {r"more\.blocks\.\d": 7, "s.1": 1},
    },
    "both patterns, rank-stabilised": {
        "target_modules": r".*blocks\.\d", "r": 2, "use_rslora": True, "rank_pattern": {"0": 3},
        "alpha_pattern": {"1": 5},
    },
    "embedding": {"target_modules": ["embed"], "r": 4, "lora_alpha": 6},
    "fan_in_fan_out": {"target_modules": ["crossed", "square"], "r": 2, "lora_alpha": 6, "fan_in_fan_out": True},
    "fan_in_fan_out that PEFT set itself": {"target_modules": ["crossed", "blocks.0"], "r": 2},
    "convolution in two dimensions": {"target_modules": ["image"], "r": 2, "lora_alpha": 6},
    "convolution of a point": {"target_modules": ["point"], "r": 2, "lora_alpha": 6},
    "convolution in one dimension": {"target_modules": ["series"], "r": 2, "lora_alpha": 6},
}  # fmt: skip


@pytest.mark.parametrize("feature", FEATURES)
def test_delta_is_that_of_peft(feature: str, tmp_path: Path) -> None:
    base, folder, expected = mixed(tmp_path, **FEATURES[feature])
    source = source_of(base, folder)
    assert set(source.factors) == set(expected) != set()
    for name, delta in expected.items():
        result = torch.empty(delta.numel(), dtype=torch.float64)
        assert source.read_delta(name, 0, result)
        assert delta.abs().max() > 0
        torch.testing.assert_close(result.view(delta.shape), delta, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|aa)+$", "x" * 1000])
def test_patterns_that_could_take_for_ever_are_not_read(pattern: str, adapters: list[Path], tmp_path: Path) -> None:
    hostile = changed(adapters[0], tmp_path / "hostile", rank_pattern={pattern: 4})
    assert "repeats a group or is too long" in refusal(lambda: merge("linear", [hostile]))


def test_modules_saved_whole_stand_in_for_the_bases(base: Path) -> None:
    folder = adapter(base, "saved", 4, r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    trained = load_file(folder / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    start = weights(base)["lm_head.weight"]
    assert torch.equal(merge("linear", [folder])["lm_head.weight"], start + (trained - start))
    assert torch.equal(merge("slerp", [folder, base], t=0.0)["lm_head.weight"], trained)
    half = merge("task_arithmetic", [folder], base, lambda_=0.5)["lm_head.weight"]
    torch.testing.assert_close(half, (start + trained) / 2, rtol=1e-13, atol=1e-15)


def test_embeddings_that_peft_saves_beside_their_factors_are_read(base: Path) -> None:
    folder = adapter(base, "embedded", 5, r=2, target_modules=["embed_tokens"])
    name = "model.embed_tokens.weight"
    assert f"base_model.model.{name[:-7]}.base_layer.weight" in load_file(folder / "adapter_model.safetensors")
    with planned_merge(spec_of("linear", folder), Options()) as work:
        source = work.plan.sources[0]
        assert isinstance(source, AdapterSource)
        assert set(source.replaced) == {name}
    within_one_ulp(base, folder, merge("linear", [folder]), peft_merged(base, folder))


def test_embeddings_trained_whole_over_a_base_without_a_head_are_refused(base: Path, tmp_path: Path) -> None:
    """PEFT keeps the head of a tied model, which a checkpoint with tied weights cannot express."""
    folder = adapter(base, "embeddings", 4, r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    within_one_ulp(base, folder, merge("linear", [folder]), peft_merged(base, folder))
    tied = {name: tensor for name, tensor in weights(base).items() if name != "lm_head.weight"}
    assert "(tied?)" in refusal(lambda: merge("linear", [folder], tied))
    (tmp_path / "tied").mkdir()
    save_file(tied, tmp_path / "tied" / "model.safetensors")
    factors = adapter(base, "factors_of_embeddings", 4, r=2, target_modules=["embed_tokens"])
    merged, expected = merge("linear", [factors], tmp_path / "tied"), peft_merged(base, factors)
    torch.testing.assert_close(merged["model.embed_tokens.weight"], expected["model.embed_tokens.weight"])


def test_an_adapter_in_a_pickle_is_read_only_when_asked(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    folder = changed(adapters[0], tmp_path / "pickled")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert "--allow-bin" in refusal(lambda: merge("linear", [folder]))
    merged = merge("linear", [folder], options=Options(allow_bin=True))
    within_one_ulp(base, adapters[0], merged, peft_merged(base, adapters[0]))


def test_a_changed_adapter_is_another_merge(adapters: list[Path], tmp_path: Path) -> None:
    folder = changed(adapters[0], tmp_path / "copy")

    def identity() -> str:
        with planned_merge(spec_of("linear", folder), Options()) as work:
            files = {facts.file for facts in work.plan.sources[0].files}
            assert files == {folder / "adapter_model.safetensors", folder / "adapter_config.json"}
            return merge_identity(work, 1)

    first = identity()
    assert identity() == first
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 3}))
    assert identity() != first
