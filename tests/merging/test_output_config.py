"""The output's config.json: type, layers, tied weights, agreement with the tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from donor_cases import FAST, configured, facts, linear, merged, model, noted, refusal, sliced, state

from stockpot.merging.spec.merge_spec import MergeSpec, Slice, SliceSource
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint
from stockpot.weights.layout import Layout, read_layout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"dtype": "float32"}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),
        ({}, {"dtype": "bfloat16"}),
        (
            {"text_config": {"dtype": "float32", "a": 1}, "vision_config": {"torch_dtype": "float16"}},
            {"dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "a": 1},
             "vision_config": {"torch_dtype": "bfloat16"}},
        ),
    ],
)  # fmt: skip
def test_the_configuration_says_the_outputs_type(
    given: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    one, two = model(tmp_path / "one", given), model(tmp_path / "two", {})
    assert configured(merged(linear(one, two, dtype="BF16"), tmp_path / "out")) == expected


def test_with_tensors_of_several_types_the_donors_word_stands(tmp_path: Path) -> None:
    for name in ("one", "two"):
        model(tmp_path / name, {"dtype": "bfloat16"})
        mixed = state() | {"router.weight": torch.ones(2).bfloat16()}
        save_checkpoint(mixed, tmp_path / name / "model.safetensors")
    out = merged(linear(tmp_path / "one", tmp_path / "two"), tmp_path / "out")
    assert configured(out) == {"dtype": "bfloat16"}
    assert facts(out)["output"]["parameters_by_dtype"] == {"F32": 64, "BF16": 2}


def test_eight_bits_are_no_type_for_a_model_to_be_made_in(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {"dtype": "bfloat16"})
    assert configured(merged(linear(one, dtype="F8_E5M2"), tmp_path / "out")) == {"dtype": "bfloat16"}


def test_where_the_donor_was_loaded_from_stays_with_the_donor(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {"_name_or_path": "/home/somebody/model", "a": [1.5, float("inf")]})
    out = merged(linear(one), tmp_path / "out")
    assert configured(out) == {"a": [1.5, float("inf")], "dtype": "float32"}


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers", "num_layers"])
@pytest.mark.parametrize("nested", [False, True])
def test_with_slices_the_configuration_counts_the_layers_that_were_taken(
    key: str, nested: bool, tmp_path: Path
) -> None:
    block = {key: 3, "layer_types": ["a", "b", "c"], "eos_token_id": [7, 8, 9], "other": 3, "short": [1, 2]}
    outer = {"text_config": block, "vision_config": {key: 5, "layer_types": [1, 2, 3]}} if nested else block
    one = model(tmp_path / "one", outer, layers=3)
    out = merged(sliced(one, (one, 0, 2), (one, 1, 3)), tmp_path / "out")
    result = configured(out)
    assert result["text_config" if nested else key] == (block | changed(key) if nested else 4)
    if nested:
        assert result["vision_config"] == outer["vision_config"]
    else:
        assert result == block | changed(key) | {"dtype": "float32"}
    assert not facts(out)["notes"]


def changed(key: str) -> dict[str, Any]:
    return {key: 4, "layer_types": ["a", "b", "b", "c"]}


def test_lists_of_layers_are_the_donors_by_the_layers_taken_of_it(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {"num_layers": 3, "layer_types": ["x", "x", "x"]}, layers=3)
    two = model(tmp_path / "two", {"num_layers": 3, "layer_types": ["a", "b", "c"]}, layers=3)
    both = Slice((SliceSource(str(one), 0, 1), SliceSource(str(two), 2, 3)))
    spec = MergeSpec("linear", base=str(two), slices=(both, Slice((SliceSource(str(one), 1, 3),))))
    assert configured(merged(spec, tmp_path / "out"))["layer_types"] == ["c", "b", "c"]


def test_a_donor_with_fewer_layers_than_are_taken_is_refused(tmp_path: Path) -> None:
    small = model(tmp_path / "small", {"num_layers": 2, "layer_types": ["a", "b"]})
    large = model(tmp_path / "large", {"num_layers": 4}, layers=4)
    message = refusal(replace(sliced(small, (large, 0, 4)), on_missing="skip"), tmp_path / "out")
    assert "layer_types in its config.json has 2 entries, but layer 3 is taken" in message


def test_a_configuration_that_does_not_count_the_layers_as_the_weights_do_is_refused(tmp_path: Path) -> None:
    nowhere = model(tmp_path / "nowhere", {"units": 3}, layers=3)
    assert "does not count its layers, but its weights have 3 (model.layers.0 to 2)" in refusal(
        sliced(nowhere, (nowhere, 0, 2)), tmp_path / "out"
    )
    assert not facts(merged(sliced(nowhere, (nowhere, 0, 3)), tmp_path / "whole"))["notes"]
    other = model(tmp_path / "other", {"num_layers": 5}, layers=3)
    message = refusal(sliced(other, (other, 0, 2)), tmp_path / "out")
    assert "says that num_layers is 5, but its weights have 3 (model.layers.0 to 2)" in message
    assert "says that num_layers is 5, but there are 3 layers" in noted(merged(linear(other), tmp_path / "plain"))


def test_tensors_outside_the_layers_are_those_that_the_configuration_asks_for(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", {"num_layers": 2}), model(tmp_path / "two", {"num_layers": 2})
    save_checkpoint(state() | {"score.weight": torch.ones(4, 4)}, one / "model.safetensors")
    message = refusal(replace(sliced(one, (one, 0, 1), (two, 1, 2)), base=None), tmp_path / "out")
    assert f"the output would lack 'score.weight' (1), and its configuration, that of {one}, requires it" in message
    message = refusal(replace(sliced(two, (two, 0, 1), (one, 1, 2)), base=None), tmp_path / "out")
    assert (
        f"the output would have 'score.weight' (1), and its configuration, that of {two}, does not expect it" in message
    )
    assert "score.weight" in open_checkpoint(merged(sliced(one, (two, 0, 1), (one, 1, 2)), tmp_path / "out"))


def test_a_layer_that_is_made_otherwise_than_the_configuration_has_it_is_refused(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", {"num_layers": 2}), model(tmp_path / "two", {"num_layers": 2})
    more = state() | {f"model.layers.{layer}.bias": torch.ones(4) for layer in (0, 1)}
    save_checkpoint(more, two / "model.safetensors")
    message = refusal(replace(sliced(one, (one, 0, 1), (two, 1, 2)), base=None), tmp_path / "out")
    assert "the output would have 'model.layers.1.bias' (1)" in message


def test_what_was_written_is_compared_with_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = model(tmp_path / "one", {"num_layers": 2})

    def without_norm(folder: Path) -> Layout:
        layout = read_layout(folder)
        kept = {name: entry for name, entry in layout.entries.items() if name != "model.norm.weight"}
        return replace(layout, entries=kept)

    monkeypatch.setattr("stockpot.merging.write.sidecars.read_layout", without_norm)
    assert "the output would lack 'model.norm.weight' (1)" in refusal(linear(one), tmp_path / "out")


def test_what_a_model_has_and_the_first_of_its_slice_lacks_is_not_dropped_in_silence(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", {"num_layers": 2}), model(tmp_path / "two", {"num_layers": 2})
    more = state() | {f"model.layers.{layer}.bias": torch.ones(4) for layer in (0, 1)} | {"b": torch.ones(1)}
    save_checkpoint(more, two / "model.safetensors")
    both = Slice((SliceSource(str(one), 0, 1), SliceSource(str(two), 1, 2)))
    spec = MergeSpec("linear", slices=(both,))
    message = refusal(spec, tmp_path / "out")
    assert f"{two} has 2 tensors that the first model of the slice lacks: 'b', 'model.layers.1.bias'" in message
    out = merged(replace(spec, on_missing="skip"), tmp_path / "out")
    assert "has 'b', 'model.layers.1.bias' (2): left out" in noted(out)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}),
        ({}, {"tie_word_embeddings": False}),
        ({"tie_word_embeddings": False}, {"tie_word_embeddings": False}),
        (
            {"text_config": {"tie_word_embeddings": True}},
            {"text_config": {"tie_word_embeddings": False}, "tie_word_embeddings": False},
        ),
    ],
)
def test_a_head_of_its_own_is_said_to_be_one(message: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        own = state() | {"lm_head.weight": torch.randn(4, 4)}
        save_checkpoint(own, model(tmp_path / name, message) / "model.safetensors")
    out = merged(linear(tmp_path / "one", tmp_path / "two"), tmp_path / "out")
    assert configured(out) == expected | {"dtype": "float32"}
    assert len(facts(out)["notes"]) == (message != {"tie_word_embeddings": False})


@pytest.mark.parametrize("size", ["5GB", "200"])
def test_heads_are_compared_to_the_last_bit_over_all_files(size: str, tmp_path: Path) -> None:
    """A merge of one model with itself keeps the tie; one bit of difference at the very end undoes it."""
    embedding = torch.randn(600, 2000)
    for name, last in (("same", 0.0), ("other", 1e-3)):
        head = embedding.clone()
        head[-1, -1] += last
        tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
        save_checkpoint(tensors, model(tmp_path / name, {"tie_word_embeddings": True}) / "model.safetensors")
        out = merged(linear(tmp_path / name), tmp_path / f"{name}-out", replace(FAST, max_shard_size=size))
        assert configured(out)["tie_word_embeddings"] is (not last)


def test_quantised_donors_are_refused_and_plain_weights_lose_the_claim(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "gptq"}, "a": 1}
    for name in ("one", "two"):
        packed = state() | {"model.layers.0.qweight": torch.ones(2, 2, dtype=torch.int32)}
        save_checkpoint(packed, model(tmp_path / name, config) / "model.safetensors")
    message = refusal(linear(tmp_path / "one", tmp_path / "two"), tmp_path / "out")
    assert "quantised (quantization_config" in message
    assert "'model.layers.0.qweight' is I32" in message
    plain = model(tmp_path / "plain", config)
    out = merged(linear(plain), tmp_path / "out")
    assert configured(out) == {"a": 1, "dtype": "float32"}
    assert "has a quantization_config, but its weights are not quantised" in noted(out)
