"""What YAML 1.1 takes for true, false, a number, a date or nothing is read as meant, or named with its quotes."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from stockpot.cli.merging import parse_settings
from stockpot.errors import StockpotError
from stockpot.evaluation.scores import SCORES
from stockpot.merging.rules import RULES
from stockpot.merging.spec.mergekit_yaml import parse_merge_config
from stockpot.methods import registry
from stockpot.recipe.read import apply_overrides, read_recipe, read_task, validate
from stockpot.recipe.schema import Recipe
from stockpot.streams.spec import TaskSpec
from stockpot.switches import SWITCHES, Switch, read_switches
from stockpot.yaml_text import MAX_DEPTH, dump_yaml, parse_yaml

Write = Callable[..., Path]
FORMS = [form for word in SWITCHES for form in (word, word.title(), word.upper())]


def parts(annotation: Any) -> Iterator[Any]:
    """An annotation and everything inside it."""
    yield annotation
    if typing.get_origin(annotation) is not Literal:
        for part in typing.get_args(annotation):
            yield from parts(part)


def blocks_of(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A block of the recipe and those inside it."""
    found: set[type[BaseModel]] = {model}
    for field in model.model_fields.values():
        for part in parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel) and part not in found:
                found |= blocks_of(part)
    return found


BLOCKS = sorted(
    {block for top in (Recipe, TaskSpec) for block in blocks_of(top)}
    | {method.config_type for method in registry().values()}
    | set(SCORES.values()),
    key=lambda block: block.__name__,
)
FIELDS = [(block, key) for block in BLOCKS for key in block.model_fields]
CHOICES = [
    (block, key, value)
    for block, key in FIELDS
    for part in parts(block.model_fields[key].annotation)
    if typing.get_origin(part) is Literal
    for value in typing.get_args(part)
]
BOOLEANS = [(block, key) for block, key in FIELDS if block.model_fields[key].annotation in (bool, bool | None)]


def test_the_schema_was_walked() -> None:
    assert {Recipe, TaskSpec} < set(BLOCKS)
    assert ("Evaluation", "on") in {(block.__name__, key) for block, key in FIELDS}
    assert len(FIELDS) > 150
    assert len(CHOICES) > 60
    assert len(BOOLEANS) > 5
    assert {(b, k) for b, k in FIELDS if bool in parts(b.model_fields[k].annotation)} == set(BOOLEANS)


def test_every_key_of_the_schema_is_read_as_itself() -> None:
    for block, key in FIELDS:
        assert list(parse_yaml(f"{key}: 1", "s")) == [key], (block, key)
        assert list(apply_overrides({}, [f"{key}=1"])) == [key], (block, key)


def test_every_choice_of_the_schema_is_read_as_itself_and_taken() -> None:
    for block, key, value in CHOICES:
        (read,) = parse_yaml(f"{key}: {value}", "s").values()
        assert read == value, (block, key)
        field = TypeAdapter(block.model_fields[key].rebuild_annotation())
        assert field.validate_python(read, strict=True) == value, (block, key, value)


def test_every_switch_of_the_schema_takes_yes_and_no_without_quotes_alone() -> None:
    for block, key in BOOLEANS:
        validate = block._switches  # type: ignore[attr-defined]
        for form in FORMS:
            assert validate({key: parse_yaml(form, "s")})[key] is SWITCHES[form.lower()], (block, key)
            assert validate({key: parse_yaml(f"'{form}'", "s")})[key] == form, (block, key)


@pytest.mark.parametrize("word", FORMS)
def test_a_word_is_text_where_text_is_wanted(word: str, digits_recipe: dict[str, Any], write_yaml: Write) -> None:
    path = write_yaml(digits_recipe)
    recipe = read_recipe(path, [f"name={word}", f"tasks=[{{name: {word}, data: {{classes: [{word}]}}}}, {{name: b}}]"])
    assert isinstance(recipe.tasks, list)
    assert (recipe.name, recipe.tasks[0].name, recipe.tasks[0].data.classes) == (word, word, [word])
    assert read_task(write_yaml(f"name: {word}\n", "task.yaml")).name == word
    assert parse_yaml(dump_yaml({word: [Switch(word)]}), "s") == {word: [word]}


def test_the_key_on_of_the_evaluation_block(digits_recipe: dict[str, Any], write_yaml: Write) -> None:
    text = dump_yaml(digits_recipe) + "evaluation: {on: tuning}\n"
    assert read_recipe(write_yaml(text)).evaluation.on == "tuning"
    assert read_recipe(write_yaml(digits_recipe), ["evaluation={on: tuning}"]).evaluation.on == "tuning"


def test_blocks_that_others_describe_take_words_for_switches(digits_recipe: dict[str, Any], write_yaml: Write) -> None:
    path = write_yaml(digits_recipe)
    train = read_recipe(path, ["train.bf16=no", "train.logging_strategy=no"]).train
    assert train["bf16"] is False
    assert train["logging_strategy"] == "no"
    args = read_recipe(path, ["model.args={inputs: 64, flag: [yes, 'yes']}"]).model.args
    assert args["flag"] == [True, "yes"]


def test_every_word_among_the_choices_of_training_arguments_is_kept(
    digits_recipe: dict[str, Any], write_yaml: Write
) -> None:
    import dataclasses
    from enum import Enum

    from transformers import TrainingArguments

    hints = typing.get_type_hints(TrainingArguments)
    words = {
        field.name: choice.value
        for field in dataclasses.fields(TrainingArguments)
        for part in parts(hints[field.name])
        if isinstance(part, type) and issubclass(part, Enum)
        for choice in part
        if choice.value in SWITCHES
    } | {field.name: field.default for field in dataclasses.fields(TrainingArguments) if str(field.default) in SWITCHES}
    assert "logging_strategy" in words
    for key, word in words.items():
        task = validate(TaskSpec, parse_yaml(f"name: a\ntrain: {{{key}: {word}}}", "s"), "s")
        assert task.train[key] == word, key


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1_000", 1000), ("0x10", 16), ("-2", -2), (".5", 0.5), ("1.", 1.0), ("-.inf", float("-inf")),
        ("0", 0), ("~", None), ("null", None), ("", None), ("true", True), ("FALSE", False),
        ("2026-01-01", "2026-01-01"), ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("=", "="), ("y", "y"), ("n", "n"),
        ("'010'", "010"), ("!!str 1", "1"),
    ],
)  # fmt: skip
def test_a_scalar_is_what_a_person_reads(text: str, value: Any) -> None:
    (read,) = parse_yaml(f"key: {text}", "s").values()
    assert type(read) is type(value)
    assert read == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("010", "s: line 1, column 6: a number cannot start with 0: write 10, or '010'."),
        ("007", "s: line 1, column 6: a number cannot start with 0: write 7, or '007'."),
        ("9" * 5000, "s: line 1, column 6: an integer of more than 64 bits."),
        ("0x" + "f" * 5000, "s: line 1, column 6: an integer of more than 64 bits."),
        ("1e999", "s: line 1, column 6: the number 1e999 is too large."),
        ("[" * 900 + "]" * 900, f"s: line 1, column 55: nested more than {MAX_DEPTH} deep."),
        ("&a [*a]", "s: line 1, column 6: its aliases expand to more than 100 000 values."),
        ("!!int abc", "s: line 1, column 6: the tag tag:yaml.org,2002:int is not supported; leave it out."),
        ("!!python/object:os.system x",
         "s: line 1, column 6: the tag tag:yaml.org,2002:python/object:os.system is not supported; leave it out."),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line(text: str, message: str) -> None:
    with pytest.raises(StockpotError) as caught:
        parse_yaml(f"key: {text}", "s")
    assert str(caught.value) == message


def test_a_long_override_is_not_said_in_full() -> None:
    for override in (f"seeds=[{'9' * 5000}]", ".".join("a" * 900) + "=1"):
        with pytest.raises(StockpotError) as caught:
            apply_overrides({}, [override])
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("link", ["[{}]", "{{<<: [{}], x: 1}}"])
def test_aliases_that_multiply_are_bounded(link: str) -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {link.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 12))]
    with pytest.raises(StockpotError, match="its aliases expand to more than 100 000 values"):
        parse_yaml("\n".join(lines), "s")
    chain = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 300))]
    with pytest.raises(StockpotError, match="nested more than 50 deep"):
        parse_yaml("\n".join(chain), "s")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=1_000", "name: should be text: YAML reads it as the number 1000; put it in quotes."),
        ("method.label=1e-4", "method.label: should be text: YAML reads it as the number 0.0001; put it in quotes."),
        ("tasks=[{name: null}]", "tasks.0.name: should be text: YAML reads it as nothing; put it in quotes."),
        ("tasks=[{name: true}]", "tasks.0.name: should be text: YAML reads it as true; put it in quotes."),
        ("data.classes=[1e3]", "data.classes.0: should be text: YAML reads it as the number 1000.0; put it in quotes."),
        ("method.beta={0: 0.5}", "method.beta.0: should be text: YAML reads it as the number 0; put it in quotes."),
        ("data={1: 3}", "data.1: should be text: YAML reads it as the number 1; put it in quotes."),
        ("data.in_memory='no'", "data.in_memory: should be a valid boolean, not 'no'."),
        ("keep=no", "keep: should be 'all' or 'needed', not 'no'."),
        ("data.limit=1:30", "data.limit: should be a valid integer, not '1:30'."),
    ],
)
def test_the_quotes_that_a_text_needs_are_named(
    override: str, message: str, digits_recipe: dict[str, Any], write_yaml: Write
) -> None:
    path = write_yaml(digits_recipe)
    with pytest.raises(StockpotError) as caught:
        read_recipe(path, [override])
    assert str(caught.value).removeprefix(f"{path}: ") == message


def test_merge_keys_are_read_and_a_key_of_ones_own_wins(digits_recipe: dict[str, Any], write_yaml: Write) -> None:
    tasks = (
        "tasks:\n"
        "  - &a {name: one, data: {classes: [0, 1]}, train: {max_steps: 1}}\n"
        "  - {<<: *a, name: two, data: {classes: [2, 3]}}\n"
        "  - {<<: [{train: {max_steps: 3}}, *a], name: three}\n"
    )
    del digits_recipe["tasks"]
    path = write_yaml(dump_yaml(digits_recipe) + tasks)
    read = read_recipe(path).tasks
    assert isinstance(read, list)
    assert [(task.name, task.data.classes, task.train["max_steps"]) for task in read] == [
        ("one", [0, 1], 1), ("two", [2, 3], 1), ("three", [0, 1], 3),
    ]  # fmt: skip
    # An override changes the one place that it names, not what an alias shares with it.
    changed = read_recipe(path, ["tasks.0.train.max_steps=9"]).tasks
    assert isinstance(changed, list)
    assert [task.train["max_steps"] for task in changed] == [9, 1, 3]


@pytest.mark.parametrize("text", ["b: {<<: *a, y: 1, y: 2}", "b: {<<: *a, <<: *a}", "b: {on: 1, on: 2}"])
def test_a_key_that_stands_twice_is_still_an_error(text: str) -> None:
    with pytest.raises(StockpotError, match="appears twice"):
        parse_yaml(f"a: &a {{x: 1}}\n{text}", "s")
    assert parse_yaml("c: &c {x: 1}\na: &a {<<: *c, x: 2}\nb: {<<: *a, x: 3}", "s")["b"] == {"x": 3}


TEXT = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=8)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False), TEXT,
    st.from_regex(r"\A[-+0-9.:_exoEbXyYnNfFoO~]{1,8}\Z"),
)  # fmt: skip


@given(st.dictionaries(TEXT, st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3)), max_size=4))
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    assert read_switches(parse_yaml(dump_yaml(values), "s")) == values


def test_a_merge_reads_words_as_its_parameters_need_them() -> None:
    for form in ("yes", "on", "no", "off"):
        values = parse_yaml(f"merge_method: nuslerp\nmodels: [on, off]\nparameters: {{flatten: {form}}}", "s")
        spec = parse_merge_config(values, "s")
        assert spec.parameters["flatten"] is SWITCHES[form]
        assert [model.path for model in spec.models] == ["on", "off"]
        assert parse_settings("nuslerp", [f"flatten={form}"], 2)[1] == {"flatten": SWITCHES[form]}


def test_every_name_of_the_merge_rules_is_read_as_itself() -> None:
    names = {*RULES, *(parameter.name for rule in RULES.values() for parameter in rule.parameters)}
    choices = {word for rule in RULES.values() for parameter in rule.parameters for word in parameter.choices}
    for name in names | choices:
        assert parse_yaml(f"{name}: {name}", "s") == {name: name}
