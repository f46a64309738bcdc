"""What stands beside merged weights, whoever the inputs come from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stockpot import StockpotError, __version__
from stockpot.merging.api import Options, merge
from stockpot.merging.execute import merge_into
from stockpot.merging.rule import Value
from stockpot.merging.spec.merge_spec import Filtered, MergeModel, MergeSpec, Slice, SliceSource, spec_to_mapping
from stockpot.merging.write.merge_card import short_names
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint
from stockpot.weights.layout import Layout, read_layout

FAST = Options(sync=False)


def state(layers: int = 2) -> dict[str, Tensor]:
    names = ["embed_tokens.weight", *(f"layers.{i}.weight" for i in range(layers)), "norm.weight"]
    return {f"model.{name}": torch.randn(4, 4) for name in names}


def model(folder: Path, config: Any = None, layers: int = 2, **files: str) -> Path:
    """A folder with weights, a configuration (none for None) and other files by name, `__` for a dot."""
    save_checkpoint(state(layers), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, text in files.items():
        file = folder / name.replace("__", ".").replace("-", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


def linear(*folders: Path, **more: Any) -> MergeSpec:
    return MergeSpec("linear", tuple(MergeModel(str(folder)) for folder in folders), **more)


def merged(spec: MergeSpec, output: Path, options: Options = FAST) -> Path:
    return merge_into(spec, output, options)


def configured(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "stockpot_merge.json").read_text())  # type: ignore[no-any-return]


def noted(folder: Path) -> str:
    return "\n".join(facts(folder)["notes"])


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The card's metadata, and the rest."""
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


def refusal(spec: MergeSpec, output: Path) -> str:
    """What is said; nothing is left behind, not even the beginning of an output."""
    with pytest.raises(StockpotError) as caught:
        merged(spec, output)
    assert "\n" not in str(caught.value)
    assert not list(output.parent.glob(f"*{output.name}*"))
    return str(caught.value)


def test_the_base_is_the_donor_of_all_that_belongs_to_a_model_and_of_nothing_else(tmp_path: Path) -> None:
    wanted: dict[str, Any] = dict(
        generation_config__json="{}", preprocessor_config__json="{}", processor_config__json="{}",
        video_preprocessor_config__json="{}", tokenizer__json="{}", tokenizer_config__json="{}",
        special_tokens_map__json="{}", added_tokens__json="{}", vocab__json="{}", vocab__txt="a", merges__txt="a b",
        spiece__model="s", chat_template__jinja="{{ a }}", **{"additional_chat_templates-tool__jinja": "{{ b }}"},
    )  # fmt: skip
    others: dict[str, Any] = dict(
        README__md="of the base", modeling_own__py="import os", optimizer__pt="o", training_args__bin="t",
        pytorch_model__bin="p", adapter_model__safetensors="x", trainer_state__json="{}", vocab__pkl="v",
        **{"additional_chat_templates-tool__py": "import os"},
    )  # fmt: skip
    base = model(tmp_path / "base", {"model_type": "x", "of": "base"}, 2, **wanted, **others)
    one = model(tmp_path / "one", {"of": "one"}, tokenizer__json="{1}", emoji__json="{}")
    out = merged(MergeSpec("task_arithmetic", (MergeModel(str(one)),), str(base)), tmp_path / "out")
    names = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    copied = {name.replace("__", ".").replace("-", "/") for name in wanted}
    ours = {"README.md", "stockpot_merge.yaml", "stockpot_merge.json", "model.safetensors", "config.json"}
    assert names == copied | ours
    assert all((out / name).read_bytes() == (base / name).read_bytes() for name in copied)
    assert configured(out)["of"] == "base"
    assert "of the base" not in card(out)[1]


def test_without_a_base_the_first_model_is_the_donor(tmp_path: Path) -> None:
    one, two = model(tmp_path / "z", {"of": "z"}), model(tmp_path / "a", {"of": "a"})
    assert configured(merged(linear(one, two), tmp_path / "out"))["of"] == "z"
    assert configured(merged(linear(two, one), tmp_path / "again"))["of"] == "a"


def test_the_tokenizers_donor_is_refused_where_nobody_has_that_name(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", {}), model(tmp_path / "two", {})
    assert "there is no base" in refusal(linear(one, two, tokenizer="base"), tmp_path / "out")
    said = refusal(linear(one, two, tokenizer=f"{one}x"), tmp_path / "out")
    assert said.startswith("tokenizer_source:")
    assert f"Did you mean '{one}'?" in said
    assert f"Known: {one}, {two}." in refusal(linear(one, two, tokenizer="union"), tmp_path / "out")


def test_a_tokenizer_that_differs_from_the_one_taken_is_noted(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {}, tokenizer__json="{}")
    alike = model(tmp_path / "alike", {}, tokenizer__json="{}")
    two = model(tmp_path / "two", {}, tokenizer__json='{"a": 1}', vocab__txt="a")
    assert not facts(merged(linear(one, alike), tmp_path / "same"))["notes"]
    notes = noted(merged(linear(one, two), tmp_path / "out"))
    assert f"tokenizer.json of {two} differs from that of {one}" in notes
    assert f"{two} has a vocab.txt, but {one}, whose tokenizer is used, does not" in notes


def test_what_the_configurations_disagree_on_is_noted(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {"rope_theta": 1e4, "dtype": "float32", "a": 1})
    two = model(tmp_path / "two", {"rope_theta": 1e6, "dtype": "bfloat16", "a": 1, "heads": 2})
    three = model(tmp_path / "three", {"rope_theta": 1e4, "dtype": "float16", "a": 1})
    notes = facts(merged(linear(one, two, three), tmp_path / "out"))["notes"]
    assert notes == [f"config.json of {two} differs from that of {one}, which is used, in heads, rope_theta."]


def test_what_may_not_be_read_of_another_input_is_passed_over(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {"a": 1}, tokenizer__json="{}")
    two = model(tmp_path / "two")
    (tmp_path / "secret").write_text('{"b": 1}')
    for name in ("config.json", "tokenizer.json"):
        (two / name).symlink_to(tmp_path / "secret")
    assert not facts(merged(linear(one, two), tmp_path / "out"))["notes"]
    three = model(tmp_path / "three", "{")
    assert "is not JSON" in noted(merged(linear(one, three), tmp_path / "again"))


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


def sliced(donor: Path, *ranges: tuple[Path, int, int]) -> MergeSpec:
    slices = tuple(Slice((SliceSource(str(path), first, last),)) for path, first, last in ranges)
    return MergeSpec("passthrough", base=str(donor), slices=slices)


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers", "num_layers"])
@pytest.mark.parametrize("nested", [False, True])
def test_with_slices_the_configuration_counts_the_layers_that_were_taken(
    key: str, nested: bool, tmp_path: Path
) -> None:
    block = {key: 3, "layer_types": ["a", "b", "c"], "eos_token_id": [7, 8, 9], "other": 3, "short": [1, 2]}
    outer = {"text_config": block, "vision_config": {key: 5, "layer_types": [1, 2, 3]}} if nested else block
    one = model(tmp_path / "one", outer, layers=3)
    out = merged(sliced(one, (one, 0, 2), (one, 1, 3)), tmp_path / "out")
    found = configured(out)
    assert found["text_config" if nested else key] == (block | changed(key) if nested else 4)
    if nested:
        assert found["vision_config"] == outer["vision_config"]
    else:
        assert found == block | changed(key) | {"dtype": "float32"}
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
    said = refusal(replace(sliced(small, (large, 0, 4)), on_missing="skip"), tmp_path / "out")
    assert "layer_types in its config.json has 2 entries, but layer 3 is taken" in said


def test_a_configuration_that_does_not_count_the_layers_as_the_weights_do_is_refused(tmp_path: Path) -> None:
    nowhere = model(tmp_path / "nowhere", {"units": 3}, layers=3)
    assert "does not count its layers, but its weights have 3 (model.layers.0 to 2)" in refusal(
        sliced(nowhere, (nowhere, 0, 2)), tmp_path / "out"
    )
    assert not facts(merged(sliced(nowhere, (nowhere, 0, 3)), tmp_path / "whole"))["notes"]
    other = model(tmp_path / "other", {"num_layers": 5}, layers=3)
    said = refusal(sliced(other, (other, 0, 2)), tmp_path / "out")
    assert "says that num_layers is 5, but its weights have 3 (model.layers.0 to 2)" in said
    assert "says that num_layers is 5, but there are 3 layers" in noted(merged(linear(other), tmp_path / "plain"))


def test_tensors_outside_the_layers_are_those_that_the_configuration_asks_for(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", {"num_layers": 2}), model(tmp_path / "two", {"num_layers": 2})
    save_checkpoint(state() | {"score.weight": torch.ones(4, 4)}, one / "model.safetensors")
    said = refusal(replace(sliced(one, (one, 0, 1), (two, 1, 2)), base=None), tmp_path / "out")
    assert f"the output would lack 'score.weight' (1), and its configuration, that of {one}, requires it" in said
    said = refusal(replace(sliced(two, (two, 0, 1), (one, 1, 2)), base=None), tmp_path / "out")
    assert f"the output would have 'score.weight' (1), and its configuration, that of {two}, does not expect it" in said
    assert "score.weight" in open_checkpoint(merged(sliced(one, (two, 0, 1), (one, 1, 2)), tmp_path / "out"))


def test_a_layer_that_is_made_otherwise_than_the_configuration_has_it_is_refused(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", {"num_layers": 2}), model(tmp_path / "two", {"num_layers": 2})
    more = state() | {f"model.layers.{layer}.bias": torch.ones(4) for layer in (0, 1)}
    save_checkpoint(more, two / "model.safetensors")
    said = refusal(replace(sliced(one, (one, 0, 1), (two, 1, 2)), base=None), tmp_path / "out")
    assert "the output would have 'model.layers.1.bias' (1)" in said


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
    said = refusal(spec, tmp_path / "out")
    assert f"{two} has 2 tensors that the first model of the slice lacks: 'b', 'model.layers.1.bias'" in said
    out = merged(replace(spec, on_missing="skip"), tmp_path / "out")
    assert "has 'b', 'model.layers.1.bias' (2): left out" in noted(out)


@pytest.mark.parametrize(
    ("said", "expected"),
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
def test_a_head_of_its_own_is_said_to_be_one(said: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        own = state() | {"lm_head.weight": torch.randn(4, 4)}
        save_checkpoint(own, model(tmp_path / name, said) / "model.safetensors")
    out = merged(linear(tmp_path / "one", tmp_path / "two"), tmp_path / "out")
    assert configured(out) == expected | {"dtype": "float32"}
    assert len(facts(out)["notes"]) == (said != {"tie_word_embeddings": False})


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
    said = refusal(linear(tmp_path / "one", tmp_path / "two"), tmp_path / "out")
    assert "quantised (quantization_config" in said
    assert "'model.layers.0.qweight' is I32" in said
    plain = model(tmp_path / "plain", config)
    out = merged(linear(plain), tmp_path / "out")
    assert configured(out) == {"a": 1, "dtype": "float32"}
    assert "has a quantization_config, but its weights are not quantised" in noted(out)


def test_code_of_the_donor_is_named_and_left_where_it_is(tmp_path: Path) -> None:
    auto = {"auto_map": {"AutoModel": "modeling_own.Own"}}
    one = model(tmp_path / "one", auto, modeling_own__py="raise SystemExit", tokenizer_config__json=json.dumps(auto))
    out = merged(linear(one), tmp_path / "out")
    assert configured(out)["auto_map"] == auto["auto_map"]
    assert not list(out.rglob("*.py"))
    assert f"config.json of {one} needs custom code to load (auto_map)" in noted(out)
    assert f"tokenizer_config.json of {one} needs custom code" in noted(out)
    assert "needs custom code" in card(out)[1]


@pytest.mark.parametrize("kind", ["file", "state"])
def test_a_donor_that_is_no_folder_gives_the_card_and_the_recipe_only(kind: str, tmp_path: Path) -> None:
    beside = model(tmp_path / "one", {"a": 1}, tokenizer__json="{}")
    given: Any = beside / "model.safetensors" if kind == "file" else state()
    merge("linear", [given, beside], output=tmp_path / "out", options=FAST)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "stockpot_merge.yaml", "stockpot_merge.json", "model.safetensors"}
    label = str(given) if kind == "file" else "models[0]"
    assert f"{label} has no config.json" in noted(tmp_path / "out")
    assert "library_name" not in card(tmp_path / "out")[0]


def test_what_lies_in_memory_is_no_donor_of_a_tokenizer(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    with pytest.raises(StockpotError, match="tokenizer_source: 'base' is in memory"):
        merge_into(
            MergeSpec("linear", (MergeModel(str(one)),), "base", tokenizer="base"), tmp_path / "out", FAST,
            states={"base": state()},
        )  # fmt: skip


# Chat templates.


def talker(folder: Path, template: Any, jinja: str | None = None) -> Path:
    files: dict[str, Any] = {} if jinja is None else {"chat_template__jinja": jinja}
    return model(folder, {}, tokenizer_config__json=json.dumps({"chat_template": template, "b": 1}), **files)


def test_a_template_that_was_given_stands_everywhere_in_the_place_of_the_donors(tmp_path: Path) -> None:
    one = talker(tmp_path / "one", "{{ old }}")
    (one / "chat_template.json").write_text('{"chat_template": "{{ old }}"}')
    out = merged(linear(one, chat_template="{% new %}"), tmp_path / "out")
    assert (out / "chat_template.jinja").read_text() == "{% new %}"
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"chat_template": "{% new %}", "b": 1}
    assert not (out / "chat_template.json").exists()
    plain = merged(linear(one), tmp_path / "plain")
    assert json.loads((plain / "tokenizer_config.json").read_text())["chat_template"] == "{{ old }}"


def test_auto_takes_the_most_common_template(tmp_path: Path) -> None:
    one = talker(tmp_path / "one", "{{ a }}")
    two = talker(tmp_path / "two", "{{ a }}", jinja="{{ b }}")  # the file counts
    three = talker(
        tmp_path / "three", [{"name": "rag", "template": "{{ c }}"}, {"name": "default", "template": "{{ b }}"}]
    )
    none = model(tmp_path / "none", {})
    out = merged(linear(one, two, three, none, chat_template="auto"), tmp_path / "out")
    assert (out / "chat_template.jinja").read_text() == "{{ b }}"
    out = merged(linear(two, one, chat_template="auto"), tmp_path / "draw")
    assert (out / "chat_template.jinja").read_text() == "{{ b }}"
    out = merged(linear(two, one, chat_template="auto", tokenizer=str(one)), tmp_path / "teacher")
    assert (out / "chat_template.jinja").read_text() == "{{ a }}"
    out = merged(linear(none, one, three, chat_template="auto"), tmp_path / "others")
    assert (out / "chat_template.jinja").read_text() == "{{ a }}"


def test_auto_without_any_template_is_noted(tmp_path: Path) -> None:
    out = merged(linear(model(tmp_path / "one", {}), chat_template="auto"), tmp_path / "out")
    assert not (out / "chat_template.jinja").exists()
    assert "no input has a chat template" in noted(out)


def test_a_templates_name_is_not_known(tmp_path: Path) -> None:
    said = refusal(linear(model(tmp_path / "one", {}), chat_template="chatml"), tmp_path / "out")
    assert "chat_template: 'chatml' is not a template: write 'auto'" in said


# The recipe, the record, the card.


def spec_of(tmp_path: Path) -> MergeSpec:
    base, one, two = (model(tmp_path / name, {}) for name in ("base", "one", "two"))
    density: tuple[Value, ...] = (0.25, 0.5)
    weight = (Filtered(0.5, "norm"), Filtered(1.0))
    models = (MergeModel(str(one), {"density": density}), MergeModel(str(two), {"weight": weight}))
    return MergeSpec("ties", models, str(base), {"lambda": 0.75}, dtype="BF16", trim="tensor", seed=3)


def test_the_recipe_is_the_merge_that_was_asked_for(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    out = merged(spec, tmp_path / "out")
    assert yaml.safe_load((out / "stockpot_merge.yaml").read_text()) == spec_to_mapping(spec)


def test_the_record_has_size_and_header_of_every_input_file(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    found = facts(merged(spec, tmp_path / "out"))
    assert found["stockpot"] == __version__
    assert found["rule"] == "ties"
    assert found["output"] == {"parameters": 64, "bytes": 128, "parameters_by_dtype": {"BF16": 64}}
    assert [entry["model"] for entry in found["inputs"]] == spec.paths
    for entry in found["inputs"]:
        data = (Path(entry["model"]) / "model.safetensors").read_bytes()
        header = data[8 : 8 + struct.unpack("<Q", data[:8])[0]]
        assert entry["files"] == [
            {"name": "model.safetensors", "bytes": len(data), "header_sha256": hashlib.sha256(header).hexdigest()}
        ]
    hashed = facts(merged(spec, tmp_path / "hashed", replace(FAST, hash_files=True)))
    for entry in hashed["inputs"]:
        data = (Path(entry["model"]) / "model.safetensors").read_bytes()
        assert entry["files"][0]["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_card_says_rule_models_parameters_and_donor(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    metadata, text = card(merged(spec, tmp_path / "out"))
    assert metadata == {"library_name": "transformers", "tags": ["merge", "stockpot"]}
    assert "TIES: trim each τ to its largest elements" in text
    assert "| model | weight | density |" in text
    assert r"| one | 1.0 | \[0.25, 0.5\] |" in text
    assert "| two | \\[{value: 0.5, filter: norm}, {value: 1.0}\\] | 0.2 |" in text
    assert "| lambda | 0.75 |" in text
    assert "The configuration is that of `base`" in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["base_model"] == "base"
    assert recipe["models"][0] == {"model": "one", "parameters": {"density": [0.25, 0.5]}}


def test_no_card_tells_where_a_folder_lies_on_a_disk(tmp_path: Path) -> None:
    spec = replace(spec_of(tmp_path), on_missing="skip")
    save_checkpoint(state() | {"extra": torch.ones(1)}, Path(spec.models[0].path) / "model.safetensors")
    out = merged(spec, tmp_path / "out")
    assert str(tmp_path) in noted(out)
    assert "- only one has 'extra'" in card(out)[1]
    assert str(tmp_path) not in (out / "README.md").read_text()


def test_no_card_tells_where_a_file_of_fisher_information_lies(tmp_path: Path) -> None:
    models = []
    for name in ("one", "two"):
        folder, fisher = model(tmp_path / name, {}), tmp_path / f"{name}-fisher.safetensors"
        save_checkpoint({key: tensor.abs() for key, tensor in state().items()}, fisher)
        fisher.with_suffix(".json").write_text("{}")
        models.append(MergeModel(str(folder), {"fisher": str(fisher)}))
    out = merged(MergeSpec("fisher", tuple(models)), tmp_path / "out")
    assert "| one | one-fisher.safetensors | 1.0 |" in card(out)[1]
    assert f"fisher: {tmp_path}" not in (out / "README.md").read_text()
    assert [entry["files"][0]["name"] for entry in facts(out)["inputs"][2:]] == [
        "one-fisher.safetensors", "two-fisher.safetensors",
    ]  # fmt: skip


def test_folders_are_named_by_as_many_parts_as_tell_them_apart() -> None:
    names = [
        "/home/me/a/final",
        "/home/me/b/final",
        "/home/me/c",
        "owner/name@main",
        "owner/name+/home/me/d",
        "models[0]",
    ]
    places = {name: Path(name) for name in names[:-1]}
    short = ["a/final", "b/final", "c", "owner/name@main", "owner/name+d", "models[0]"]
    assert list(short_names(names, places).values()) == short


def test_models_of_the_hub_and_only_they_are_named_in_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here/one", "hub-one", "hub-two"):
        model(tmp_path / name, {})
    cached = {"owner/one@v1": tmp_path / "hub-one", "owner/two": tmp_path / "hub-two"}
    monkeypatch.setattr("stockpot.merging.read.inputs.located", lambda name: cached.get(name, Path(name)))
    spec = MergeSpec("linear", tuple(MergeModel(name) for name in ("here/one", *cached)))
    metadata, text = card(merged(spec, tmp_path / "out"))
    assert metadata["base_model"] == ["owner/one", "owner/two"]
    assert "| owner/one@v1 | 1.0 |" in text
    assert "| one | 1.0 |" in text


def test_names_and_templates_from_outside_stay_text_in_the_card(tmp_path: Path) -> None:
    hostile = model(tmp_path / "<script>a|b`c`\n---\n# X", {})
    out = merged(linear(hostile, chat_template="{{ x }}\n````\n<script>\n---"), tmp_path / "out")
    text = card(out)[1]
    table = next(line for line in text.splitlines() if line.endswith("| 1.0 |"))
    assert table == r"| &lt;script&gt;a\|b\`c\` --- \# X | 1.0 |"
    before, fence, recipe = text.rpartition("\n`````yaml\n")
    assert fence
    assert "<script>" not in before.replace("`<script>a|b'c' --- # X`", "")  # in a span of code it is text
    assert yaml.safe_load(recipe.rpartition("`````")[0])["chat_template"].startswith("{{ x }}\n````")


def test_hundreds_of_notes_are_counted_in_the_card_and_kept_in_the_record(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", {}), model(tmp_path / "two", {})
    many = {f"more.{i}.weight": torch.ones(1) for i in range(200)}
    save_checkpoint(state() | many, one / "model.safetensors")
    out = merged(linear(one, two, on_missing="skip"), tmp_path / "out")
    assert len(facts(out)["notes"]) == 200
    assert "- 150 more, in `stockpot_merge.json`" in card(out)[1]
    assert card(out)[1].count("lacks 'more.") == 50


# Bad donors.


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "should hold a JSON object, not a list"),
        ("null", "should hold a JSON object, not a NoneType"),
        ("[" * 200_000, "is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
    ],
)
def test_a_configuration_that_is_none_is_refused_before_the_merge(config: str, said: str, tmp_path: Path) -> None:
    one = model(tmp_path / "one", config)
    found = refusal(linear(one), tmp_path / "out")
    assert said in found
    assert found.startswith(str(one / "config.json"))


def test_a_configuration_in_another_encoding_is_refused(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    (one / "config.json").write_bytes(b'{"a": "\xff"}')
    assert "not a text file in UTF-8" in refusal(linear(one), tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_without_end_are_refused(name: str, tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    with (one / name).open("wb") as file:
        file.truncate(2 << 30)  # takes no room on the disk
    assert "2,147,483,648 bytes" in refusal(linear(one), tmp_path / "out")
    with (one / name).open("wb") as file:
        file.truncate((64 << 20) + 1)
    if name == "config.json":
        assert "more than 67,108,864 are not read" in refusal(linear(one), tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_link_out_of_the_donors_folder_is_not_followed(name: str, tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    (tmp_path / "secret").write_text('{"a": "secret"}')
    (one / name).unlink(missing_ok=True)
    (one / name).symlink_to(tmp_path / "secret")
    assert "is a link out of its folder" in refusal(linear(one), tmp_path / "out")


def test_a_folder_of_templates_that_lies_elsewhere_is_not_followed(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jinja").write_text("secret")
    (one / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    assert "is a link out of its folder" in refusal(linear(one), tmp_path / "out")


def test_a_folder_with_a_files_name_is_passed_over(tmp_path: Path) -> None:
    (model(tmp_path / "one", {}) / "own.model").mkdir()
    assert not (merged(linear(tmp_path / "one"), tmp_path / "out") / "own.model").exists()


def test_a_pipe_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    one = model(tmp_path / "one")
    os.mkfifo(one / "config.json")
    assert "is not a file" in refusal(linear(one), tmp_path / "out")


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    (repository / "blobs").mkdir(parents=True)
    snapshot = model(
        repository / "snapshots" / "0123", {"a": 1}, 2, **{"additional_chat_templates-tool__jinja": "{{ t }}"}
    )
    for number, file in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        shutil.move(file, repository / "blobs" / str(number))
        file.symlink_to(repository / "blobs" / str(number))
    out = merged(linear(snapshot), tmp_path / "out", Options())
    assert configured(out)["a"] == 1
    copied = out / "additional_chat_templates" / "tool.jinja"
    assert copied.read_text() == "{{ t }}"
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_a_merge_that_was_killed_beside_its_templates_can_be_started_anew(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {})
    left = tmp_path / ".tmp-merge-out" / "additional_chat_templates"
    left.mkdir(parents=True)
    (left / "a.jinja").write_text("old")
    out = merged(linear(one), tmp_path / "out")
    assert not (out / "additional_chat_templates").exists()
    assert set(open_checkpoint(out)) == set(state())
