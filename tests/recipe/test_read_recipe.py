"""A recipe is YAML as people write it; every mistake is one line with its place, and often a suggestion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.errors import StockpotError
from stockpot.methods import registry
from stockpot.recipe.read import apply_overrides, parse_yaml, read_recipe, read_task

Write = Callable[..., Path]

KNOWN = f"Known: {', '.join(registry())}."


def mistake(path: Path, *overrides: str) -> str:
    """The message that reading the recipe gives: always one line that begins with the file."""
    with pytest.raises(StockpotError) as caught:
        read_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def recipe(digits_recipe: dict[str, Any], write_yaml: Write) -> Path:
    return write_yaml(digits_recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methd.beta=1", "methd: unknown key. Did you mean 'method'?"),
        ("model.arg=1", "model.arg: unknown key. Did you mean 'args'?"),
        ("data.pth=digits", "data.pth: unknown key. Did you mean 'path'?"),
        ("evaluation.batchsize=3", "evaluation.batchsize: unknown key. Did you mean 'batch_size'?"),
        ("method.bta=1", "method.bta: unknown key. Did you mean 'beta'?"),
        ("tasks={splitt: 5}", "tasks.splitt: unknown key. Did you mean 'split'?"),
        ("tasks.shufle=5", "tasks.shufle: unknown key. Did you mean 'shuffle'?"),
        ("tasks=[{nme: a}]", "tasks.0.nme: unknown key. Did you mean 'name'?"),
        ("tasks=[{name: a}, {name: b, data: {clases: [1]}}]",
         "tasks.1.data.clases: unknown key. Did you mean 'classes'?"),
        ("controls=[{name: a, dat: {}}]", "controls.0.dat: unknown key. Did you mean 'data'?"),
        ("compare=[{name: sfa}, {name: wise_ft, alfa: 1}]", "compare.1.alfa: unknown key. Did you mean 'alpha'?"),
        ("train.learning_rat=1", "train.learning_rat: unknown key. Did you mean 'learning_rate'?"),
        ("tasks=[{name: a, train: {max_step: 1}}]", "tasks.0.train.max_step: unknown key. Did you mean 'max_steps'?"),
        ("data.zzzz=1", "data.zzzz: unknown key. Known here: path, name, revision, image, label, problem_type, "
         "train_split, test_split, classes, rotate, permute, limit, in_memory, format, text, each, prompt, input, "
         "completion, messages, max_length, long_prompts, packing."),
    ],
)  # fmt: skip
def test_an_unknown_key_is_an_error_at_every_level(override: str, message: str, recipe: Path) -> None:
    assert mistake(recipe, override) == message


def test_a_key_that_is_named_like_a_branch_of_a_union_is_still_the_users(recipe: Path) -> None:
    assert mistake(recipe, "method={sfa: {beta: 1}}").startswith("method.sfa: unknown key.")
    assert mistake(recipe, "metrics=[{name: loss, loss: 1}]").startswith("metrics.0.loss: unknown key.")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.beta=1.5", "method.beta: beta must lie in [0, 1], the weight of the anchor, or be 'auto', not 1.5."),
        ("method.beta={'0.*': -1}",
         "method.beta: beta of '0.*' must lie in [0, 1], the weight of the anchor, or be 'auto', not -1.0."),
        ("method.beta=.nan", "method.beta: beta must lie in [0, 1], the weight of the anchor, or be 'auto', not nan."),
        ("method.beta=lots",
         "method.beta: beta must lie in [0, 1], the weight of the anchor, or be 'auto', not 'lots'."),
        ("method.beta=true", "method.beta: should be a valid number, not True."),
        ("method.beta={}", "method.beta: beta has no patterns; give a number, or at least the pattern '*'."),
        ("method.p=0", "method.p: should be greater than 0, not 0."),
        ("method={name: sfa, p: .5, every: 3}",
         "method: give p (a fraction of the steps) or every (a number of steps), not both."),
        ("method={name: wise_ft, alpha: 2}", "method.alpha: should be less than or equal to 1, not 2."),
        ("method={name: replay, fraction: .5, count: 3}", "method: give fraction or count, not both."),
        ("method={name: replay, budget: reservoir}", "method: a reservoir has a fixed capacity: give count."),
        ("method.name=qqq", f"method.name: unknown method 'qqq'. {KNOWN}"),
        ("method.name=replya", f"method.name: unknown method 'replya'. Did you mean 'replay'? {KNOWN}"),
        ("compare=[{beta: 1}]", f"compare.0.name: a method needs its `name`. {KNOWN}"),
        ("method=sfa", "method: should be a block of `key: value` lines, not 'sfa'."),
        ("compare=[{name: sfa}, {name: sfa}]", "compare: two methods are called 'sfa'; give one of them a `label`."),
        ("scenario=class", "scenario: should be 'class-incremental', 'domain-incremental', 'task-incremental' or "
         "'language', not 'class'."),
        ("scenario=language",
         "tasks.split: it cuts `data` by classes, and a language stream has none; list the tasks."),
        ("tasks=[{name: a, data: {text: a}}]",
         "model.build: texts need a model of Transformers; give model.name or model.config."),
        ("tasks=[]", "tasks: the stream is empty; name at least one task."),
        ("tasks=3", "tasks: should be a list of tasks, or {split: N} to cut `data` into tasks of N classes, not 3."),
        ("tasks.split=0", "tasks.split: should be greater than or equal to 1, not 0."),
        ("tasks=[{name: a}, {name: a}]", "tasks: the name 'a' appears twice; every task and control needs its own."),
        ("tasks=[{name: ../a}]",
         "tasks.0.name: should start with a letter or a digit, and have no spaces or slashes, not '../a'."),
        ("tasks=[{name: a, data: {classes: []}}]",
         "tasks.0.data.classes: an empty list leaves the task without classes; name at least one, or drop the key."),
        ("tasks=[{name: a, data: {classes: [1, 1]}}]", "tasks.0.data.classes: a class is named twice in [1, 1]."),
        ("tasks=[{data: {path: digits}}]", "tasks.0.name: this key is required."),
        ("data.text=Title: {title}",
         "data.text: should be text; in YAML `a: b` is a block, so put text with a colon in quotes."),
        ("data.limit=0", "data.limit: should be greater than or equal to 1, not 0."),
        ("data.limit=ten", "data.limit: should be a valid integer, not 'ten'."),
        ("seeds=[]", "seeds: should have at least one entry."),
        ("seeds=[1, 1]", "seeds: a seed appears twice in [1, 1]."),
        ("seeds=[-1]", "seeds.0: should be greater than or equal to 0, not -1."),
        ("model={}", "model: give exactly one of name, config and build; none given."),
        ("model={name: a, build: 'b:c'}", "model: give exactly one of name, config and build; name and build given."),
        ("model={build: a.b}", "model: build must read package.module:function, not 'a.b'."),
        ("model={config: {}}", "model: config needs the key model_type, such as vit or resnet."),
        ("model={name: a, args: {b: 1}}",
         "model: args belongs to build; the settings of a Transformers model go into config."),
        ("model={name: a, drawn: [b]}",
         "model: drawn belongs to build; what a Transformers checkpoint lacks is known."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_an_error_that_says_what_would_be_right(override: str, message: str, recipe: Path) -> None:
    assert mistake(recipe, override) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.seed=3", "train.seed: not for a recipe: use the recipe's `seeds`."),
        ("train.output_dir=x", "train.output_dir: not for a recipe: the run folder decides; use -o."),
        ("train.fp16=true", "train.fp16: not for a recipe: methods act on unscaled gradients; use bf16."),
        (
            "train.optim=schedule_free_adamw",
            "train.optim: schedule_free_adamw trains other weights than those it gives out, which a run would "
            "publish; choose adamw_torch, for example.",
        ),
        ("train.learning_rate=fast", "train.learning_rate: should be a number, not 'fast'."),
        ("train.learning_rate=-1", "train.learning_rate: should be at least 0, not -1."),
        ("train.num_train_epochs=0", "train.num_train_epochs: should be more than 0, not 0: nothing would be trained."),
        ("train.per_device_train_batch_size=0", "train.per_device_train_batch_size: should be at least 1, not 0."),
        ("train.gradient_accumulation_steps=0", "train.gradient_accumulation_steps: should be at least 1, not 0."),
        ("train.save_steps=0.5", "train.save_steps: should be a whole number, not 0.5."),
        ("train.max_steps=true", "train.max_steps: should be a number, not True."),
        ("tasks=[{name: a, train: {learning_rate: x}}]", "tasks.0.train.learning_rate: should be a number, not 'x'."),
        ("train=3", "train: should be a block of `key: value` lines, not 3."),
    ],
)
def test_train_takes_the_names_and_values_of_training_arguments(override: str, message: str, recipe: Path) -> None:
    assert mistake(recipe, override) == message


def test_every_reserved_name_of_train_has_a_reason(recipe: Path) -> None:
    from stockpot.recipe.train import RESERVED

    for key, reason in RESERVED.items():
        assert mistake(recipe, f"train.{key}=1") == f"train.{key}: not for a recipe: {reason}."


def test_the_plain_loop_refuses_what_it_would_ignore(recipe: Path) -> None:
    message = "train.bf16: the plain loop does not support it. Use loop: trainer."
    assert mistake(recipe, "loop=plain", "train.bf16=true") == message
    assert read_recipe(recipe, ["train.bf16=true"]).train["bf16"] is True


def test_max_steps_alone_needs_no_epochs(recipe: Path) -> None:
    assert read_recipe(recipe, ["train={max_steps: 3, num_train_epochs: 0}"]).train["max_steps"] == 3


@given(st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_numbers_in_any_notation_are_numbers(value: float, short: bool) -> None:
    text = f"{value:.3e}" if short else repr(value)
    read = parse_yaml(f"key: {text}", "here")["key"]
    assert isinstance(read, float)
    assert read == float(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E5", 1e5), ("+2.e3", 2e3), (".5", 0.5), ("3", 3), ("1.0.2", "1.0.2"), ("e4", "e4"),
     ("1e", "1e"), ("0-4", "0-4"), ("1_000", 1000), ("true", True), ("~", None)],
)  # fmt: skip
def test_yaml_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    read = parse_yaml(text, "here")
    assert (read, type(read)) == (value, type(value))


def test_a_key_that_stands_twice_is_an_error_with_its_place(write_yaml: Write) -> None:
    path = write_yaml("model: {build: 'a:b'}\ndata:\n  path: digits\n  path: other\n")
    assert mistake(path) == "line 4, column 3: the key 'path' appears twice."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "line 2, column 2: expected ',' or ']', but got ':'."),
        ("- a\n", "expected `key: value` lines at the top."),
        ("", "expected `key: value` lines at the top."),
        ("a: !!python/object:os.system {}",
         "line 1, column 4: the tag tag:yaml.org,2002:python/object:os.system is not supported; leave it out."),
    ],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_an_error(text: str, message: str, write_yaml: Write) -> None:
    assert mistake(write_yaml(text)) == message


def test_a_file_that_is_not_text_or_not_there_is_an_error(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert mistake(tmp_path / "bytes.yaml") == "not a text file in UTF-8."
    assert mistake(tmp_path / "recipee.yaml") == "there is no such file. Did you mean 'recipe.yaml'?"


def test_overrides_reach_into_blocks_and_lists() -> None:
    values = {"a": {"b": 1}, "list": [{"x": 1}, {"x": 2}]}
    changed = apply_overrides(values, ["a.b=2", "a.c.d=[1, 2]", "list.1.x=1e-3", "new=text", "a.e="])
    assert changed == {
        "a": {"b": 2, "c": {"d": [1, 2]}, "e": None},
        "list": [{"x": 1}, {"x": 0.001}],
        "new": "text",
    }
    assert values == {"a": {"b": 1}, "list": [{"x": 1}, {"x": 2}]}  # the given ones stay


def test_a_later_override_wins_and_a_value_may_hold_an_equals_sign() -> None:
    assert apply_overrides({}, ["a=1", "a=b=c"]) == {"a": "b=c"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("list.2=1", "'list.2=1': '2' is not an entry of a list of 2 (numbered from 0)."),
        ("list.-1=1", "'list.-1=1': '-1' is not an entry of a list of 2 (numbered from 0)."),
        ("list.x.y=1", "'list.x.y=1': 'x' is not an entry of a list of 2 (numbered from 0)."),
        ("a", "'a': an override has the form key.sub=value."),
        ("=1", "'=1': an override has the form key.sub=value."),
        ("a..b=1", "'a..b=1': an override has the form key.sub=value."),
        ("a=[1", "a=[1: line 1, column 3: expected ',' or ']', but got '<stream end>'."),
    ],
)
def test_a_bad_override_is_an_error_that_quotes_it(override: str, message: str) -> None:
    with pytest.raises(StockpotError) as caught:
        apply_overrides({"list": [1, 2]}, [override])
    assert str(caught.value) == message


def test_the_method_is_sfa_unless_it_is_named(recipe: Path) -> None:
    assert read_recipe(recipe).method.name == "sfa"
    assert read_recipe(recipe, ["method.beta=0.5"]).method.beta == 0.5
    assert read_recipe(recipe, ["method={name: joint}"]).method.name == "joint"


def test_a_recipe_is_called_like_its_file(recipe: Path) -> None:
    assert read_recipe(recipe).name == "recipe"
    assert read_recipe(recipe, ["name=other"]).name == "other"


def test_a_task_file_is_one_entry_of_tasks(write_yaml: Write) -> None:
    path = write_yaml({"name": "next", "data": {"classes": [1, "two"]}, "train": {"max_steps": 3}}, "task.yaml")
    task = read_task(path, ["data.limit=2"])
    assert (task.name, task.data.classes, task.data.limit, task.train) == ("next", [1, "two"], 2, {"max_steps": 3})
    with pytest.raises(StockpotError, match=r"task\.yaml: dta: unknown key\. Did you mean 'data'\?"):
        read_task(path, ["dta=1"])
    with pytest.raises(StockpotError, match=r"task\.yaml: train\.max_stps: unknown key\."):
        read_task(path, ["train.max_stps=1"])


# Fields of TrainingArguments that act in a task's training, or in what is logged of it.
ACTING = {
    "accelerator_config", "adam_beta1", "adam_beta2", "adam_epsilon", "bf16", "dataloader_drop_last",
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "debug", "full_determinism", "gradient_accumulation_steps", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "include_num_input_tokens_seen", "label_smoothing_factor", "learning_rate",
    "liger_kernel_config", "log_level", "logging_first_step", "logging_nan_inf_filter", "logging_steps",
    "logging_strategy", "lr_scheduler_kwargs", "lr_scheduler_type", "max_grad_norm", "max_steps",
    "neftune_noise_alpha", "num_train_epochs", "optim", "optim_args", "optim_target_modules",
    "per_device_train_batch_size", "project", "report_to", "run_name", "save_steps", "tf32", "torch_compile",
    "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps", "trackio_bucket_id", "trackio_space_id",
    "trackio_static_space_id", "use_cache", "use_cpu", "use_liger_kernel", "warmup_steps", "weight_decay",
}  # fmt: skip


def test_every_field_of_training_arguments_acts_or_is_refused_with_its_reason() -> None:
    import dataclasses

    from transformers import TrainingArguments

    from stockpot.recipe.train import RESERVED

    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert fields == ACTING | (fields & set(RESERVED))
    assert not ACTING & set(RESERVED)
