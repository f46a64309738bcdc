"""mergekit's configurations: what each means for every tensor."""

from __future__ import annotations

import pytest
from mergekit_cases import NORM, UP, Q, each, plan_of, refusal, spec_of, targets_of


def test_linear_weighs_the_models_in_their_order_and_writes_out_dtype() -> None:
    text = """
merge_method: linear
models:
  - model: org/one
    parameters: {weight: 1.0}
  - model: org/two@v2
    parameters: {weight: 0.3}
  - model: org/three
    parameters: {weight: "5e-1"}
dtype: float32
out_dtype: bfloat16
"""
    spec = spec_of(text)
    assert spec.paths == ["org/one", "org/two@v2", "org/three"]
    assert (spec.dtype, spec.base, spec.trim, spec.dialect) == ("BF16", None, "tensor", "mergekit")
    for target in plan_of(spec).targets:
        assert target.settings.numbers("weight") == [1.0, 0.3, 0.5]
        assert target.settings.switch("normalize") is True
        assert target.dtype == "BF16"
    assert spec_of(text.replace("out_dtype: bfloat16", "")).dtype == "F32"
    assert spec_of(text.replace("dtype: float32\nout_dtype: bfloat16", "dtype: torch.float16")).dtype == "F16"


def test_slerp_goes_from_the_base_to_the_other_with_t_over_depth_and_by_name() -> None:
    text = """
merge_method: slerp
base_model: first
slices:
  - sources:
      - {model: second, layer_range: [0, 4]}
      - {model: first, layer_range: [0, 4]}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5
dtype: bfloat16
"""
    spec = spec_of(text)
    assert [source.path for source in spec.slices[0].sources] == ["first", "second"]
    targets = targets_of(text)
    t = {key: target.settings.number("t") for key, target in targets.items()}
    # Layers 0 to 3 are at 0, 1/3, 2/3, 1: at 4/3 and 8/3 on the way from the first of five values to the last.
    attention = [t[f"model.layers.{layer}.{Q}"] for layer in range(4)]
    assert attention == pytest.approx([0, 0.5 - 0.2 / 3, 0.3 + 0.4 * 2 / 3, 1])
    assert [t[f"model.layers.{layer}.{UP}"] for layer in range(4)] == pytest.approx([1, 17 / 30, 13 / 30, 0])
    assert {t[f"model.layers.{layer}.{NORM}"] for layer in range(4)} == {0.5}
    assert {t[name] for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")} == {0.5}
    for target in targets.values():
        assert [spec.paths[part.source] for part in target.inputs] == ["first", "second"]


@pytest.mark.parametrize("listed", ["[{model: b}]", "[{model: b}, {model: a}]", "[{model: a}, {model: b}]"])
def test_slerp_of_models_begins_at_the_base_wherever_it_stands(listed: str) -> None:
    spec = spec_of(f"{{merge_method: slerp, base_model: a, models: {listed}, parameters: {{t: 0.25}}}}")
    assert [model.path for model in spec.models] == ["a", "b"]
    assert plan_of(spec).targets[0].settings.number("t") == 0.25


def test_ties_leaves_the_base_out_and_bends_density_over_depth() -> None:
    text = """
merge_method: ties
base_model: base
models:
  - model: base
    parameters: {weight: 0.1, density: 0.1}
  - model: a
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: b
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: c
    parameters:
      weight:
        - {filter: mlp, value: 0.5}
        - value: 0
parameters: {normalize: true, int8_mask: true}
dtype: float16
"""
    spec, targets = spec_of(text), targets_of(text)
    assert [model.path for model in spec.models] == ["a", "b", "c"]
    assert (spec.base, spec.trim, spec.dtype) == ("base", "tensor", "F16")
    # Layer 1 is at 1/3: of [1, .7, .1] at 2/3, so 1 − .3·2/3; of [0, .3, .7, 1] at 1.
    result = each(targets, f"layers.1.{Q}")
    assert result["density"] == pytest.approx([0.8, 0.5, 1.0])
    assert result["weight"] == pytest.approx([1.0, 0.3, 0.0])
    assert each(targets, UP)["weight"][2::3] == [0.5] * 4
    assert each(targets, f"layers.3.{NORM}") == {"weight": [1, 1, 0], "density": [pytest.approx(0.1), 0.5, 1]}
    # Outside the layers the first value counts.
    assert targets["lm_head.weight"].settings.numbers("density") == [1, 0.5, 1]
    assert targets["lm_head.weight"].settings.numbers("weight") == [1, 0, 0]


def test_dare_ties_adds_up_what_agrees_as_mergekit_does() -> None:
    text = """
merge_method: dare_ties
base_model: {model: {path: org/base, revision: main}}
models:
  - model: {model: {path: org/base, revision: main}, lora: null}
  - model: a
    parameters: {density: 0.53, weight: 0.4}
  - model: {model: b, lora: {path: adapter, revision: x}}
    parameters: {density: 0.53, weight: 0.3}
parameters: {int8_mask: true}
tokenizer_source: base
dtype: bfloat16
"""
    spec = spec_of(text)
    assert (spec.base, spec.tokenizer) == ("org/base@main", "base")
    assert [model.path for model in spec.models] == ["a", "b+adapter@x"]
    settings = plan_of(spec).targets[0].settings
    assert settings.numbers("density") == [0.53, 0.53]
    assert settings.numbers("weight") == [0.4, 0.3]
    assert settings.shared == {"lambda": 1.0, "rescale": True, "normalize": False}


def test_passthrough_puts_layers_together_anew() -> None:
    text = """
merge_method: passthrough
slices:
  - sources:
      - {model: a, layer_range: [0, 3]}
  - sources:
      - model: b
        layer_range: [1, 4]
        parameters: {scale: [{filter: q_proj, value: 0.5}, {value: 1}]}
dtype: float16
"""
    spec, targets = spec_of(text), targets_of(text)
    layers = {layer: targets[f"model.layers.{layer}.{Q}"] for layer in range(6)}
    assert [(spec.paths[one.inputs[0].source], one.inputs[0].name) for one in layers.values()] == [
        *(("a", f"model.layers.{layer}.{Q}") for layer in (0, 1, 2)),
        *(("b", f"model.layers.{layer}.{Q}") for layer in (1, 2, 3)),
    ]
    assert [one.settings.each[0]["scale"] for one in layers.values()] == [None, None, None, 0.5, 0.5, 0.5]
    assert len(targets) == 6 * 3 + 3
    assert spec.paths[targets["model.embed_tokens.weight"].inputs[0].source] == "a"
    assert [spec.paths[targets[name].inputs[0].source] for name in ("model.norm.weight", "lm_head.weight")] == ["b"] * 2


def test_task_arithmetic_takes_negative_weights_and_lambda() -> None:
    text = """
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: 0.8}}
  - {model: b, parameters: {weight: -0.3}}
parameters: {lambda: "0.7", normalize: 0}
"""
    settings = plan_of(spec_of(text)).targets[0].settings
    assert settings.numbers("weight") == [0.8, -0.3]
    assert settings.shared == {"lambda": 0.7, "normalize": False}
    assert spec_of(text).dtype is None


def test_where_there_is_one_layer_it_is_the_last() -> None:
    models = "{merge_method: linear, models: [a], parameters: {weight: [1, 2]}}"
    one = "{merge_method: linear, slices: [{sources: [{model: a, layer_range: [2, 3]}]}], parameters: {weight: [1, 2]}}"
    for targets in (targets_of(models, layers=1), targets_of(one)):
        assert targets[f"model.layers.0.{Q}"].settings.numbers("weight") == [2]
        assert targets["model.norm.weight"].settings.numbers("weight") == [1]


def test_the_nearest_scope_that_has_a_value_counts() -> None:
    text = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: [{filter: mlp, value: 1}]}}
      - {model: b, layer_range: [2, 4]}
    parameters: {weight: [{filter: layers.0., value: 2}, {filter: layers.2., value: 3}]}
  - sources:
      - {model: b, layer_range: [3, 4], parameters: {weight: {value: 5, filter: norm}}}
parameters: {weight: 4}
"""
    targets = targets_of(text)
    # A filter looks at the model's own name of the tensor: layer 2 of b is layer 0 of the output.
    assert targets[f"model.layers.0.{UP}"].settings.numbers("weight") == [1, 3]
    assert targets[f"model.layers.0.{Q}"].settings.numbers("weight") == [2, 3]
    assert targets[f"model.layers.1.{Q}"].settings.numbers("weight") == [4, 4]
    assert targets[f"model.layers.2.{Q}"].settings.numbers("weight") == [4]
    assert targets[f"model.layers.2.{NORM}"].settings.numbers("weight") == [5]


def test_a_filter_of_the_whole_merge_looks_at_the_output_s_name() -> None:
    text = """
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [0, 2]}]
parameters: {t: [{filter: layers.0., value: 0.1}, {filter: layers.2., value: 0.2}, {value: 0.9}]}
"""
    targets = targets_of(text)
    assert [targets[f"model.layers.{layer}.{Q}"].settings.number("t") for layer in (0, 1)] == [0.1, 0.9]


def test_nuslerp_takes_mergekit_s_names_and_counts_a_listed_base_as_the_base() -> None:
    text = """
merge_method: nuslerp
base_model: base
models: [{model: base}, {model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]
parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
"""
    spec = spec_of(text)
    assert [model.path for model in spec.models] == ["a", "b"]
    settings = plan_of(spec).targets[0].settings
    assert settings.shared == {"flatten": False, "row_wise": True}
    assert settings.numbers("weight") == [1, 3]
    alone = spec_of(text.replace("base_model: base", "").replace("{model: base}, ", ""))
    assert (alone.base, len(alone.models)) == (None, 2)


def test_linear_merges_a_base_too() -> None:
    listed = spec_of("{merge_method: linear, base_model: a, models: [a, {model: b, parameters: {weight: 2}}]}")
    assert [model.path for model in listed.models] == ["a", "b"]
    added = spec_of("{merge_method: linear, base_model: a, models: [b, c], parameters: {weight: 1}}")
    assert [model.path for model in added.models] == ["b", "c", "a"]
    assert "linear also merges" in refusal("{merge_method: linear, base_model: a, models: [b, c]}")


def test_a_base_among_the_sources_of_a_slice_is_not_merged() -> None:
    text = """
merge_method: ties
slices:
  - base_model: base
    sources:
      - {model: base, layer_range: [1, 3]}
      - {model: a, layer_range: [1, 3]}
"""
    spec = spec_of(text)
    assert [source.path for source in spec.slices[0].sources] == ["a"]
    target = {target.name: target for target in plan_of(spec).targets}[f"model.layers.0.{Q}"]
    assert target.base is not None
    assert (spec.paths[target.base.source], target.base.name) == ("base", f"model.layers.1.{Q}")
    assert "layer_range" in refusal(
        text.replace("model: base, layer_range: [1, 3]", "model: base, layer_range: [0, 2]")
    )


def test_our_own_block_says_what_mergekit_has_no_words_for() -> None:
    text = "{merge_method: ties, base_model: c, models: [a, b, c], stockpot: {%s}}"
    ours = spec_of(text % "trim: tensor, on_missing: skip, seed: 7, defaults: stockpot")
    assert (ours.trim, ours.on_missing, ours.seed, ours.dialect) == ("tensor", "skip", 7, "stockpot")
    assert len(ours.models) == 3
    assert spec_of(text % "defaults: stockpot").trim == "model"
    assert spec_of(text % "trim: model").trim == "model"
    for own, density in (("", 1.0), ("defaults: stockpot", 0.2)):
        assert set(plan_of(spec_of(text % own)).targets[0].settings.numbers("density")) == {density}


@pytest.mark.parametrize(("tokenizer", "donor"), [
    ("tokenizer_source: a", "a"),
    ("tokenizer_source: base", "base"),
    ("tokenizer: {source: {model: {path: a, revision: r}}}", "a@r"),
    ("tokenizer: {source: b, tokens: null}", "b"),
    ("tokenizer: null", None),
])  # fmt: skip
def test_the_tokenizer_comes_from_a_named_model(tokenizer: str, donor: str | None) -> None:
    spec = spec_of(f"merge_method: linear\nmodels: [a, b]\nchat_template: auto\n{tokenizer}")
    assert (spec.tokenizer, spec.chat_template) == (donor, "auto")
