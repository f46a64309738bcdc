"""mergekit's configurations: every key and shape that is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mergekit_cases import plan_of, refusal, spec_of

from stockpot import StockpotError
from stockpot.merging.rules import RULES
from stockpot.merging.spec.merge_spec import spec_to_mapping
from stockpot.merging.spec.mergekit_yaml import parse_merge_config, read_merge_config

MODELS = "merge_method: linear\nmodels: [a, b]\n"


SLICE = "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1]%s}]%s}]\n"


A = "merge_method: linear\nmodels: [{model: a, parameters: {%s}}]\n"


@pytest.mark.parametrize(("text", "message"), [
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
def test_a_key_that_is_not_supported_or_not_known_is_named(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(("text", "message"), [
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
def test_a_wrong_shape_is_said_with_its_place(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(("text", "message"), [
    (A % "wieght: 1", "^linear has no parameter 'wieght'. Did you mean 'weight'"),
    (A % "normalize: true", "linear: normalize applies to the whole merge"),
    (A % "weight: true", "^linear: weight must be a .*number, not True"),
    (MODELS + "parameters: {normalize: often}", "linear: normalize must be true or false, not 'often'."),
    ("merge_method: ties\nbase_model: c\nmodels: [a]\nparameters: {rescale: true}",
     "ties: rescale=True is not supported."),
])  # fmt: skip
def test_a_wrong_parameter_is_refused_before_anything_is_read(text: str, message: str) -> None:
    with pytest.raises(StockpotError, match=message):
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
