"""mergekit's configurations: what each means for every tensor, and every key and shape that is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stockpot import StockpotError
from stockpot.merging.plan.merge_plan import Plan, Target, make_plan
from stockpot.merging.read.sources import MemorySource
from stockpot.merging.rule import Parameter, Rule
from stockpot.merging.rules import RULES
from stockpot.merging.spec.merge_spec import Filtered, MergeModel, MergeSpec, Slice, SliceSource, spec_to_mapping
from stockpot.merging.spec.mergekit_yaml import parse_merge_config, read_merge_config
from stockpot.yaml_text import parse_yaml

Q, UP, NORM = "self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"


def spec_of(text: str) -> MergeSpec:
    return parse_merge_config(parse_yaml(text, "x.yaml"), "x.yaml")


def plan_of(spec: MergeSpec, layers: int = 4) -> Plan:
    names = [f"model.layers.{layer}.{name}" for layer in range(layers) for name in (Q, UP, NORM)]
    names = ["model.embed_tokens.weight", *names, "model.norm.weight", "lm_head.weight"]
    state = {name: torch.zeros(2, 2) for name in names}
    return make_plan(spec, [MemorySource(state, path) for path in spec.paths])


def targets_of(text: str, layers: int = 4) -> dict[str, Target]:
    return {target.name: target for target in plan_of(spec_of(text), layers).targets}


def each(targets: dict[str, Target], name: str) -> dict[str, list[float]]:
    """The models' own parameters, by name, over the layers; `name` stands in every layer."""
    settings = [target.settings for key, target in targets.items() if key.endswith(f".{name}")]
    return {key: [value for one in settings for value in one.numbers(key)] for key in settings[0].each[0]}


def refusal(text: str) -> str:
    with pytest.raises(StockpotError) as caught:
        spec_of(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.yaml: ")
    return str(caught.value).removeprefix("x.yaml: ")


# --- What a configuration means ---------------------------------------------------------------------------------------


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
    found = each(targets, f"layers.1.{Q}")
    assert found["density"] == pytest.approx([0.8, 0.5, 1.0])
    assert found["weight"] == pytest.approx([1.0, 0.3, 0.0])
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


# --- What is refused --------------------------------------------------------------------------------------------------

MODELS = "merge_method: linear\nmodels: [a, b]\n"
SLICE = "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1]%s}]%s}]\n"
A = "merge_method: linear\nmodels: [{model: a, parameters: {%s}}]\n"


@pytest.mark.parametrize(("text", "said"), [
    ("merge_method: linear\nmodules: {default: {models: [a]}}", "modules: not supported"),
    (SLICE % ("", ", residual_weight: 0.5"), "slices.0.residual_weight: not supported"),
    (MODELS + "tokenizer: {source: a, tokens: {x: {source: a}}}", "tokenizer.tokens: not supported"),
    (MODELS + "tokenizer: {source: a, pad_to_multiple_of: 8}", "tokenizer.pad_to_multiple_of: not supported"),
    (MODELS + "tokenizer_source: union", "tokenizer_source: union is not supported"),
    (MODELS + "tokenizer: {source: union}", "tokenizer.source: union is not supported"),
    (MODELS + "tokenizer: {}", "tokenizer: source is missing"),
    ("merge_method: linear\nmodels: [{model: {model: a, override_architecture: X}}]",
     "models.0.model.override_architecture: not supported"),
    (MODELS + "tokeniser_source: a", "tokeniser_source: unknown key. Did you mean 'tokenizer_source'?"),
    (MODELS + "zzz: 1", "zzz: unknown key. Known here: merge_method, models"),
    ("merge_method: linear\nmodels: [{model: a, parameter: {weight: 1}}]",
     "models.0.parameter: unknown key. Did you mean 'parameters'?"),
    (SLICE % (", layers: 3", ""), "slices.0.sources.0.layers: unknown key"),
    (SLICE % ("", ", base_modle: a"), "slices.0.base_modle: unknown key. Did you mean 'base_model'?"),
    (MODELS + "stockpot: {seeds: 1}", "stockpot.seeds: unknown key. Did you mean 'seed'?"),
    (MODELS + "tokenizer: {sauce: a}", "tokenizer.sauce: unknown key. Did you mean 'source'?"),
    ("merge_method: linear\nmodels: [{model: {model: {path: a, rev: b}}}]", "models.0.model.model.rev: unknown key"),
    (A % "weight: {value: 1, filtre: x}", "models.0.parameters.weight.filtre: unknown key. Did you mean 'filter'?"),
])  # fmt: skip
def test_a_key_that_is_not_supported_or_not_known_is_named(text: str, said: str) -> None:
    assert refusal(text).startswith(said)


@pytest.mark.parametrize(("text", "said"), [
    ("models: [a]", "merge_method is missing."),
    ("merge_method: tise\nmodels: [a]", "merge_method: there is no merge rule 'tise'. Did you mean 'ties'? Known: "),
    ("merge_method: [ties]\nmodels: [a]", "merge_method: expected a string, not ['ties']."),
    ("merge_method: linear", "give exactly one of models and slices."),
    ("merge_method: linear\nmodels: []", "give exactly one of models and slices."),
    (MODELS + "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]", "give exactly one of models and slices."),
    ("merge_method: linear\nmodels: a", "models: expected a list of models, not 'a'."),
    ("merge_method: linear\nmodels: [3]", "models.0: expected `key: value` lines, not 3."),
    ("merge_method: linear\nmodels: [{parameters: {weight: 1}}]", "models.0: model is missing."),
    ("merge_method: linear\nmodels: [{model: 3}]", "models.0.model: expected a string, not 3."),
    ("merge_method: linear\nmodels: [{model: ''}]", "models.0.model: expected a string, not ''."),
    ("merge_method: linear\nmodels: [{model: {lora: a}}]", "models.0.model: model is missing."),
    ("merge_method: linear\nmodels: [{model: {model: {revision: a}}}]", "models.0.model.model: path is missing."),
    ("merge_method: linear\nmodels: [a, b, a]", "models: a is listed twice."),
    ("merge_method: ties\nmodels: [a]", "models: base_model is missing: ties needs the model that these"),
    ("merge_method: slerp\nmodels: [a, b]", "models: slerp goes from base_model"),
    ("merge_method: slerp\nbase_model: c\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]",
     "slices.0.sources: slerp goes from base_model"),
    (MODELS + "base_model: [a]", "base_model: expected a string, not ['a']."),
    (MODELS + "parameters: [1]", "parameters: expected `key: value` lines, not [1]."),
    (MODELS + "dtype: bfloat", "dtype: 'bfloat' is not a floating-point type. Did you mean 'bfloat16'?"),
    (MODELS + "dtype: int8\nout_dtype: float16", "dtype: 'int8' is not a floating-point type."),
    (MODELS + "out_dtype: 16", "out_dtype: expected a string, not 16."),
    (MODELS + "chat_template: {a: b}", "chat_template: expected a string, not {'a': 'b'}."),
    (MODELS + "tokenizer: a", "tokenizer: expected `key: value` lines, not 'a'."),
    (MODELS + "tokenizer_source: a\ntokenizer: {source: a}", "give one of tokenizer and tokenizer_source."),
    (MODELS + "stockpot: model", "stockpot: expected `key: value` lines, not 'model'."),
    (MODELS + "stockpot: {trim: models}",
     "stockpot.trim: expected one of tensor, model, not 'models'. Did you mean 'model'?"),
    (MODELS + "stockpot: {on_missing: [a]}", "stockpot.on_missing: expected one of error, base, skip, not ['a']."),
    (MODELS + "stockpot: {defaults: yes}", "stockpot.defaults: expected one of mergekit, stockpot, not 'yes'."),
    (MODELS + "stockpot: {seed: 1.5}", "stockpot.seed: expected an integer, not 1.5."),
    (MODELS + "stockpot: {seed: true}", "stockpot.seed: expected an integer, not True."),
    ("merge_method: linear\nslices: {sources: []}", "slices: expected a list of slices, not {'sources': []}."),
    ("merge_method: linear\nslices: [{parameters: {}}]", "slices.0: sources is missing."),
    ("merge_method: linear\nslices: [{sources: []}]", "slices.0.sources: expected a list of sources, not []."),
    ("merge_method: linear\nslices: [{sources: [{model: a}]}]", "slices.0.sources.0: layer_range is missing."),
    ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: 3}]}]",
     "slices.0.sources.0.layer_range: expected a list of two layers, not 3."),
    ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1, 2]}]}]",
     "slices.0.sources.0.layer_range: expected [first layer, last layer + 1]."),
    ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1.5]}]}]",
     "slices.0.sources.0.layer_range.1: expected an integer, not 1.5."),
    (A % "weight: heavy", "models.0.parameters.weight: expected a number, not 'heavy'."),
    (A % "weight: []", "models.0.parameters.weight: expected a list of values, not []."),
    (A % "weight: [1, [2]]", "models.0.parameters.weight.1: expected a number, a switch or a string, not [2]."),
    (A % "weight: [1, {value: 2}]", "models.0.parameters.weight.0: expected `key: value` lines, not 1."),
    (A % "weight: {filter: x}", "models.0.parameters.weight: value is missing."),
    (A % "weight: [{filter: 3, value: 1}]", "models.0.parameters.weight.0.filter: expected part of a tensor's name"),
    (A % "weight: [{value: {value: 1}}]", "models.0.parameters.weight.0.value: expected a number"),
    ("merge_method: nuslerp\nmodels: [a, b]\nparameters: {flatten: true, nuslerp_flatten: false}",
     "parameters.nuslerp_flatten: given twice: it is the same parameter as flatten."),
])  # fmt: skip
def test_a_wrong_shape_is_said_with_its_place(text: str, said: str) -> None:
    assert refusal(text).startswith(said)


@pytest.mark.parametrize(("text", "said"), [
    (A % "wieght: 1", "^linear has no parameter 'wieght'. Did you mean 'weight'"),
    (A % "normalize: true", "linear: normalize applies to the whole merge"),
    (A % "weight: true", "^linear: weight must be a .*number, not True"),
    (MODELS + "parameters: {normalize: often}", "linear: normalize must be true or false, not 'often'."),
    ("merge_method: ties\nbase_model: c\nmodels: [a]\nparameters: {rescale: true}",
     "ties: rescale=True is not supported."),
])  # fmt: skip
def test_a_wrong_parameter_is_refused_before_anything_is_read(text: str, said: str) -> None:
    with pytest.raises(StockpotError, match=said):
        plan_of(spec_of(text))


KEYS = st.sampled_from([
    "merge_method", "models", "slices", "sources", "model", "lora", "path", "layer_range", "base_model", "parameters",
    "weight", "value", "filter", "dtype", "tokenizer", "tokenizer_source", "source", "tokens", "stockpot", "trim", "x",
])  # fmt: skip
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.sampled_from(["a", "float32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=3),
    max_leaves=12,
)


WHOLE = st.sampled_from([["a", "b"], [{"sources": [{"model": "a", "layer_range": [0, 1]}]}]])


@given(
    st.dictionaries(KEYS, ANYTHING, max_size=2),
    st.sampled_from([*RULES, "none"]),
    st.sampled_from(["models", "slices"]),
    WHOLE | ANYTHING,
)
def test_whatever_stands_in_a_configuration_is_a_spec_or_one_line(
    values: dict[str, Any], rule: str, form: str, parts: Any
) -> None:
    try:
        spec = parse_merge_config({**values, "merge_method": rule, form: parts}, "x.yaml")
    except StockpotError as error:
        assert str(error).startswith("x.yaml: ")
        assert "\n" not in str(error)
    else:
        assert parse_merge_config(spec_to_mapping(spec), "x.yaml") == spec


def test_a_file_s_mistakes_carry_its_name(tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text("merge_method: linear\nmodels: [a]\nmodels: [b]\n")
    with pytest.raises(StockpotError, match=r"merge\.yaml: line 3, column 1: the key 'models' appears twice"):
        read_merge_config(file)
    file.write_text("merge_method: linear\nmodels: [{model: a, weight: 1}]\n")
    with pytest.raises(StockpotError, match=r"merge\.yaml: models\.0\.weight: unknown key"):
        read_merge_config(file)


def test_reading_a_configuration_imports_neither_torch_nor_pydantic(tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text(MODELS)
    code = (
        "import sys, pathlib; from stockpot.merging.spec.mergekit_yaml import read_merge_config; "
        f"read_merge_config(pathlib.Path({str(file)!r})); "
        "assert not {'torch', 'numpy', 'pydantic', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- A spec is what its YAML says -------------------------------------------------------------------------------------

WORDS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


def scalars(parameter: Parameter) -> st.SearchStrategy[Any]:
    if isinstance(parameter.default, bool):
        return st.booleans()
    if parameter.required:
        return WORDS
    numbers = st.floats(-2, 2) | st.integers(-2, 2)
    return st.none() | numbers if parameter.default is None else numbers


def settings_of(parameter: Parameter) -> st.SearchStrategy[Any]:
    one = scalars(parameter)
    over_depth = one | st.lists(one, min_size=1, max_size=3).map(tuple)
    filtered = st.builds(Filtered, over_depth, st.none() | WORDS | st.sampled_from(["*", ""]))
    return over_depth | st.lists(filtered, min_size=1, max_size=3).map(tuple)


def parameters_of(rule: Rule, own: bool) -> st.SearchStrategy[dict[str, Any]]:
    choices = {one.name: settings_of(one) for one in rule.parameters if one.each or not own}
    return st.fixed_dictionaries({}, optional=choices)


@st.composite
def specs(draw: st.DrawFn) -> MergeSpec:
    """Every spec that a configuration can say; with mergekit's meaning, a base is a model only where it is merged."""
    rule = RULES[draw(st.sampled_from(list(RULES)))]
    theirs = draw(st.booleans())
    paths = draw(st.lists(st.sampled_from(["a", "b/c", "d@main", "e+f", "./g"]), min_size=1, max_size=3, unique=True))
    base: str | None
    if rule.base == "required":
        base = draw(st.sampled_from(["base"] if theirs else ["base", *paths]))
    elif theirs and rule.name in ("slerp", "linear"):
        base = paths[0] if rule.name == "slerp" else draw(st.none() | st.sampled_from(paths))
    else:
        base = draw(st.none() | st.just("base"))
    own = parameters_of(rule, own=True)
    models: tuple[MergeModel, ...] = ()
    slices: tuple[Slice, ...] = ()
    if draw(st.booleans()):
        models = tuple(MergeModel(path, draw(own)) for path in paths)
    else:
        slices = tuple(
            Slice(
                tuple(SliceSource(path, number, number + 3, draw(own)) for path in paths),
                base if base and draw(st.booleans()) else None,
                draw(parameters_of(rule, own=False)),
            )
            for number in range(draw(st.integers(1, 2)))
        )
    return MergeSpec(
        rule.name,
        models,
        base,
        draw(parameters_of(rule, own=False)),
        slices,
        draw(st.sampled_from([None, "F32", "BF16", "F8_E4M3"])),
        draw(st.sampled_from(["model", "tensor"])),
        draw(st.sampled_from(["error", "base", "skip"])),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.sampled_from([None, "base", "a", "b/c@x"])),
        draw(st.sampled_from([None, "auto", "{% for message in messages %}\n{{ message }}\n{% endfor %}"])),
        "mergekit" if theirs else "stockpot",
    )


@given(specs())
def test_a_spec_written_as_yaml_is_read_back_as_it_was(spec: MergeSpec) -> None:
    assert parse_merge_config(spec_to_mapping(spec), "x.yaml") == spec
    assert spec_of(yaml.safe_dump(spec_to_mapping(spec), sort_keys=False)) == spec
