"""What the output takes over from its donor: tokenizer, chat template, other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from donor_cases import FAST, card, configured, facts, linear, merged, model, noted, refusal, state

from stockpot import StockpotError
from stockpot.merging.api import merge
from stockpot.merging.execute import merge_into
from stockpot.merging.spec.merge_spec import MergeModel, MergeSpec


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
    message = refusal(linear(one, two, tokenizer=f"{one}x"), tmp_path / "out")
    assert message.startswith("tokenizer_source:")
    assert f"Did you mean '{one}'?" in message
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
    message = refusal(linear(model(tmp_path / "one", {}), chat_template="chatml"), tmp_path / "out")
    assert "chat_template: 'chatml' is not a template: write 'auto'" in message
