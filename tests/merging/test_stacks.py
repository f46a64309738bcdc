"""Which stack of layers is the language model's, what comes before and after it, and how configurations count it."""

from __future__ import annotations

from typing import Any

import pytest

from stockpot import StockpotError
from stockpot.merging.plan.layer_stacks import Stack, choose_stack, feeds, first_layer_extras, language_stacks
from stockpot.merging.spec.merge_spec import spec_to_mapping
from stockpot.merging.spec.mergekit_yaml import parse_merge_config
from stockpot.merging.write.layer_config import expanded, pin_decoder, set_layers

PAIR = (Stack("encoder.block.", 4, "encoder"), Stack("decoder.block.", 3, "decoder"))
SOLE = (Stack("model.layers.", 4, "language"),)


def names(**stacks: int) -> list[str]:
    """Two tensors in each layer of every stack; `__` stands for a dot."""
    prefixes = {key.replace("__", "."): count for key, count in stacks.items()}
    return [
        f"{key}.{layer}.{end}" for key, count in prefixes.items() for layer in range(count) for end in ("w", "mlp.w")
    ]


@pytest.mark.parametrize(
    ("stacks", "expected"),
    [
        ({"model__layers": 4}, ["model.layers."]),
        ({"visual__blocks": 6, "model__layers": 4, "visual__merger__mlp": 3}, ["model.layers."]),
        ({"model__visual__blocks": 6, "model__language_model__layers": 4}, ["model.language_model.layers."]),
        ({"vision_tower__vision_model__encoder__layers": 9, "language_model__model__layers": 4},
         ["language_model.model.layers."]),
        ({"audio_tower__layers": 9, "language_model__model__layers": 4}, ["language_model.model.layers."]),
        ({"vision_model__encoder__layers": 9, "text_model__encoder__layers": 4}, ["text_model.encoder.layers."]),
        ({"vision_model__encoder__layers": 9, "qformer__encoder__layer": 5, "language_model__decoder__layers": 4},
         ["language_model.decoder.layers."]),
        ({"encoder__layers": 9, "model__layers": 4}, ["model.layers."]),  # speech before a language model
        ({"model__layers": 4, "mtp__layers": 5}, ["model.layers."]),
        ({"vision_model__encoder__layers": 9}, ["vision_model.encoder.layers."]),  # the whole model
        ({"vit__encoder__layer": 3, "classifier": 4}, ["vit.encoder.layer."]),
        ({"wav2vec2__feature_extractor__conv_layers": 7, "wav2vec2__encoder__layers": 3}, ["wav2vec2.encoder.layers."]),
        ({"decoder__block": 4, "encoder__block": 5}, ["encoder.block.", "decoder.block."]),
        ({"vision_model__encoder__layers": 9, "language_model__encoder__block": 4, "language_model__decoder__block": 4},
         ["language_model.encoder.block.", "language_model.decoder.block."]),
        ({"encoder__encoder__layer": 4, "decoder__model__decoder__layers": 2},
         ["encoder.encoder.layer.", "decoder.model.decoder.layers."]),
        ({"left__layers": 3, "right__layers": 2}, ["left.layers.", "right.layers."]),  # names do not decide
        ({}, []),
    ],
)  # fmt: skip
def test_the_language_model_is_found_by_name_and_not_by_depth(stacks: dict[str, int], expected: list[str]) -> None:
    assert [stack.prefix for stack in language_stacks(names(**stacks))] == expected


@pytest.mark.parametrize("name", [
    "model.embed_tokens.weight", "transformer.wte.weight", "transformer.wpe.weight", "gpt_neox.embed_in.weight",
    "shared.weight", "model.shared.weight", "bert.embeddings.LayerNorm.weight", "vit.embeddings.cls_token",
    "transformer.word_embeddings_layernorm.weight", "model.encoder.layernorm_embedding.weight",
    "model.encoder.conv1.weight", "model.decoder.embed_positions.weight", "vision_tower.head.probe",
    "multi_modal_projector.linear_2.bias", "visual.merger.ln_q.weight", "model.decoder.project_in.weight",
    "model.rotary_emb.inv_freq", "visual.blocks.3.norm.weight", "text_model.embeddings.position_ids",
])  # fmt: skip
def test_what_feeds_the_layers(name: str) -> None:
    assert feeds(name, SOLE[0])


@pytest.mark.parametrize("name", [
    "lm_head.weight", "embed_out.weight", "model.norm.weight", "transformer.ln_f.bias", "score.weight",
    "classifier.out_proj.weight", "final_logits_bias", "cls.predictions.decoder.weight", "bert.pooler.dense.weight",
    "gpt_neox.final_layer_norm.weight", "esm.encoder.emb_layer_norm_after.weight", "model.decoder.project_out.weight",
    "mtp.layers.0.embed_tokens.weight", "backbone.norm_f.weight", "vit.layernorm.bias",
])  # fmt: skip
def test_what_follows_the_layers(name: str) -> None:
    assert not feeds(name, SOLE[0])


def test_a_tower_that_is_the_whole_model_has_a_norm_and_a_head_behind_it() -> None:
    tower = Stack("vision_model.encoder.layers.", 4, "encoder")
    assert not feeds("vision_model.post_layernorm.weight", tower)
    assert feeds("vision_model.embeddings.patch_embedding.weight", tower)
    assert feeds("vision_model.post_layernorm.weight", SOLE[0])


def test_what_the_first_layer_alone_has_is_told_from_layers_of_another_kind() -> None:
    plain = {"q", "mlp"}
    assert first_layer_extras({0: plain | {"bias"}, 1: plain, 2: plain}) == {"bias"}
    assert not first_layer_extras({0: plain, 1: plain})
    assert not first_layer_extras({0: {"q", "dense"}, 1: {"q", "experts"}, 2: {"q", "experts"}})
    assert not first_layer_extras({0: plain | {"bias"}, 1: plain, 2: {"q"}})
    assert not first_layer_extras({0: plain | {"bias"}})


def test_a_stack_is_chosen_by_its_part_or_by_its_names() -> None:
    assert choose_stack(SOLE, None, "slices.0", "M") == SOLE[0]
    assert choose_stack(SOLE, "model.layers", "slices.0", "M") == SOLE[0]
    assert choose_stack(PAIR, "decoder", "slices.0", "M") == PAIR[1]
    assert choose_stack(PAIR, "encoder.block.", "slices.0", "M") == PAIR[0]


@pytest.mark.parametrize(("stacks", "wanted", "message"), [
    (PAIR, None, r"slices\.1: M is an encoder–decoder \(encoder\.block\.0 to 3, decoder\.block\.0 to 2\)"),
    (PAIR, "decoders", r"slices\.1\.stack: M has no stack 'decoders' .* Did you mean 'decoder'\?"),
    (SOLE, "visual.blocks", r"M has no stack 'visual\.blocks' to slice, only model\.layers\."),
    ((*SOLE, Stack("x.layers.", 2, "language")), None, r"M has several stacks of layers \(model\.layers\.0 to 3, x"),
    ((), None, "M: no tensor has a layer number in its name"),
])  # fmt: skip
def test_a_stack_that_is_not_there_or_not_named_is_refused(stacks: Any, wanted: str | None, message: str) -> None:
    with pytest.raises(StockpotError, match=message):
        choose_stack(stacks, wanted, "slices.1", "M")


def test_a_slice_says_its_stack_in_a_configuration() -> None:
    values = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}], "stack": "decoder"}],
    }
    spec = parse_merge_config(values, "x.yaml")
    assert spec.slices[0].stack == "decoder"
    assert parse_merge_config(spec_to_mapping(spec), "x.yaml") == spec
    values["slices"][0]["stack"] = 3  # type: ignore[index]
    with pytest.raises(StockpotError, match=r"slices\.0\.stack: expected a string, not 3"):
        parse_merge_config(values, "x.yaml")


# What configurations say of layers.


def set_sole(config: dict[str, Any], *taken: int, count: int = 4) -> dict[str, Any]:
    list(set_layers(config, Stack("model.layers.", count, "language"), SOLE, taken, "M"))
    return config


@pytest.mark.parametrize(("config", "expected"), [
    ({"layer_types": list("abcd")}, {"layer_types": ["a", "b", "b", "c", "d"]}),
    ({"image_size": [1, 2, 3, 4], "eos_token_id": [1, 2, 3, 4]},
     {"image_size": [1, 2, 3, 4], "eos_token_id": [1, 2, 3, 4]}),
    (
        {"attention_types": [[["global", "local"], 2]]},
        {"attention_types": [[["global", "local", "local", "global", "local"], 1]]},
    ),
    ({"hybrid_override_pattern": "M-*E"}, {"hybrid_override_pattern": "M--*E"}),
    ({"cross_attention_layers": [1, 3]}, {"cross_attention_layers": [1, 2, 4]}),
    ({"moe_layers": [0, 1, 2, 3]}, {"moe_layers": [0, 1, 2, 3, 4]}),
    ({"first_k_dense_replace": 2}, {"first_k_dense_replace": 3}),
    ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, {"decoder_sparse_step": 1, "mlp_only_layers": [0, 1, 2, 3]}),
    ({"decoder_sparse_step": 1, "mlp_only_layers": []}, {"decoder_sparse_step": 1, "mlp_only_layers": []}),
    ({"sliding_window_pattern": 2, "layer_types": list("abab")},
     {"sliding_window_pattern": 2, "layer_types": list("abbab")}),
    ({"moe_layer_freq": [0, 1, 1, 1]}, {"moe_layer_freq": [0, 1, 1, 1, 1]}),
])  # fmt: skip
def test_what_is_said_of_each_layer_goes_with_the_layer(config: dict[str, Any], expected: dict[str, Any]) -> None:
    """Layers 0, 1, 1, 2, 3 of four."""
    assert set_sole({"num_hidden_layers": 4, **config}, 0, 1, 1, 2, 3) == {"num_hidden_layers": 5, **expected}


@pytest.mark.parametrize(("config", "message"), [
    ({"sliding_window_pattern": 2}, "sliding_window_pattern makes layers special with period 2, .* 0, 1, 1, 2, 3"),
    ({"attn_layer_period": 4}, "attn_layer_period makes layers special with period 4"),
    ({"sliding_window_pattern": "LLG"}, "with period 3"),
    ({"model_type": "gemma2"}, "its model_type, gemma2, makes layers special with period 2"),
])  # fmt: skip
def test_layers_that_fall_out_of_step_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(StockpotError, match=message):
        set_sole({"num_hidden_layers": 4, **config}, 0, 1, 1, 2, 3)


def test_layers_that_keep_step_are_taken() -> None:
    config = {"num_hidden_layers": 4, "sliding_window_pattern": 2}
    assert set_sole(config, 0, 1, 0, 1, 2, 3) == {"num_hidden_layers": 6, "sliding_window_pattern": 2}


def test_dense_layers_that_would_no_longer_come_first_are_refused() -> None:
    with pytest.raises(StockpotError, match=r"first 1 layers have no experts .* 1, 0, 2, others come before them"):
        set_sole({"num_hidden_layers": 4, "first_k_dense_replace": 1}, 1, 0, 2)


def test_an_encoder_and_its_decoder_are_counted_apart() -> None:
    t5 = {"num_layers": 4, "num_decoder_layers": None}
    stacks = (PAIR[0], Stack("decoder.block.", 4, "decoder"))
    pin_decoder(t5, stacks)
    list(set_layers(t5, stacks[1], stacks, (0, 1), "M"))
    assert t5 == {"num_layers": 4, "num_decoder_layers": 2}
    list(set_layers(t5, stacks[0], stacks, (0, 1, 2), "M"))
    assert t5 == {"num_layers": 3, "num_decoder_layers": 2}
    bart = {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4, "encoder_kinds": list("abcd")}
    list(set_layers(bart, stacks[1], stacks, (0,), "M"))
    list(set_layers(bart, stacks[0], stacks, (0, 3), "M"))
    assert bart == {"encoder_layers": 2, "decoder_layers": 1, "num_hidden_layers": 2, "encoder_kinds": ["a", "d"]}
    nested = {"encoder": {"num_hidden_layers": 4}, "decoder": {"num_hidden_layers": 4, "layer_types": list("abcd")}}
    list(set_layers(nested, stacks[1], stacks, (3, 0), "M"))
    assert nested["decoder"] == {"num_hidden_layers": 2, "layer_types": ["d", "a"]}
    assert nested["encoder"] == {"num_hidden_layers": 4}


@pytest.mark.parametrize("types", [3, [[3]], [["ab"]], [[["a"], "x"]], None])
def test_kinds_of_attention_in_another_form_are_left_alone(types: Any) -> None:
    assert expanded(types) == []
