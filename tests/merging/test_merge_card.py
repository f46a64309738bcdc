"""The recipe, the record and the model card that a merge writes."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from donor_cases import FAST, card, facts, linear, merged, model, noted, state

from stockpot import __version__
from stockpot.merging.rule import Value
from stockpot.merging.spec.merge_spec import Filtered, MergeModel, MergeSpec, spec_to_mapping
from stockpot.merging.write.merge_card import short_names
from stockpot.weights.checkpoint import save_checkpoint


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
    result = facts(merged(spec, tmp_path / "out"))
    assert result["stockpot"] == __version__
    assert result["rule"] == "ties"
    assert result["output"] == {"parameters": 64, "bytes": 128, "parameters_by_dtype": {"BF16": 64}}
    assert [entry["model"] for entry in result["inputs"]] == spec.paths
    for entry in result["inputs"]:
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
