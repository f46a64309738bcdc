"""From YAML and `key.sub=value` overrides to a checked Recipe; each mistake is one line that says where it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from stockpot.errors import RecipeMistake, StockpotError, did_you_mean
from stockpot.file_names import as_file_name
from stockpot.plugins import search_in
from stockpot.recipe.schema import Recipe, Split
from stockpot.streams.spec import TaskSpec
from stockpot.yaml_text import MAX_DEPTH, parse_yaml, read_yaml

_T = TypeVar("_T", bound=BaseModel)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with each `key.sub=value` set; list entries are numbered from 0, values are YAML."""
    result = _unshared(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")) or key.count(".") >= MAX_DEPTH:
            raise StockpotError(f"{_shown(override)!r}: an override has the form key.sub=value.")
        _set(result, key.split("."), parse_yaml(text, _shown(override)), _shown(override))
    return dict(result)


def _shown(override: str) -> str:
    return override if len(override) <= 80 else f"{override[:79]}…"


def _unshared(values: Any) -> Any:
    """A deep copy in which YAML aliases are separate copies, so that an override changes one place only."""
    if isinstance(values, dict):
        return {key: _unshared(value) for key, value in values.items()}
    return [_unshared(value) for value in values] if isinstance(values, list) else values


def _set(target: Any, path: list[str], value: Any, override: str) -> None:
    *parents, last = path
    for part in parents:
        child = _child(target, part, override)
        if not isinstance(child, dict | list):
            child = {}
            _assign(target, part, child, override)
        target = child
    _assign(target, last, value, override)


def _index(target: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(target):
        raise StockpotError(f"{override!r}: {part!r} is not an entry of a list of {len(target)} (numbered from 0).")
    return int(part)


def _child(target: Any, part: str, override: str) -> Any:
    return target[_index(target, part, override)] if isinstance(target, list) else target.get(part)


def _assign(target: Any, part: str, value: Any, override: str) -> None:
    target[_index(target, part, override) if isinstance(target, list) else part] = value


def _known_keys(model: type[BaseModel], path: Sequence[str | int], values: Any) -> list[str]:
    """The keys that the block at `path` may hold."""
    from stockpot.evaluation.scores import SCORES
    from stockpot.evaluation.scores.brought import brought_type, is_brought
    from stockpot.methods import DEFAULT, config_of, known_names
    from stockpot.plugins import is_dotted_path

    blocks: Any = model
    for place, part in enumerate(path):
        if part == "metrics":
            block = values["metrics"][path[place + 1]]
            name = block.get("name") if isinstance(block, dict) else block
            score = SCORES.get(str(name)) or (brought_type(str(name)) if is_brought(name) else None)
            return [] if score is None else list(score.model_fields)
        if part in ("method", "compare"):
            name = values.get(part, {}).get("name", DEFAULT) if part == "method" else None
            index = next((piece for piece in path if isinstance(piece, int)), 0)
            if part == "compare":
                name = values["compare"][index].get("name")
            known = is_dotted_path(name) or name in known_names()
            return list(config_of(str(name)).model_fields) if known else []
        if isinstance(part, int):
            continue
        if part in ("tasks", "controls"):
            blocks = Split if part == "tasks" and place == len(path) - 1 else TaskSpec
            continue
        field = blocks.model_fields.get(part)
        blocks = field.annotation if field is not None else None
        if blocks is None or not hasattr(blocks, "model_fields"):
            return []
    return list(blocks.model_fields)


def _user_path(error: Any, values: Any) -> list[str | int]:
    """The error's path in what the user wrote.

    Pydantic also puts the branches of unions into a path (`list[TaskSpec]`, `sfa`, `function-after[…]`): these are the
    parts that lead nowhere in `values`.
    """
    location = list(error["loc"])
    missing = [location.pop()] if error["type"] == "missing" else []
    path = _followed(location, values, to_the_end=error["type"] == "extra_forbidden")
    return [*(location if path is None else path), *missing]


def _followed(location: Sequence[str | int], values: Any, to_the_end: bool) -> list[str | int] | None:
    """The parts of `location` that lead on from `values`; None where its last one must, and does not.

    The key that a block must not hold is there, so it is followed to the end: `sfa` of method.sfa.sfa is the branch in
    `method: {sfa: 1}`, and the key.
    """
    if not location:
        return []
    part, *rest = location
    known = part in values if isinstance(values, dict) else isinstance(values, list) and part in range(len(values))
    if known and (path := _followed(rest, values[part], to_the_end and bool(rest))) is not None:
        return [part, *path]
    return _followed(rest, values, to_the_end) if rest or not to_the_end else None


def validate(model: type[_T], values: Any, source: str, *, reading: bool = False) -> _T:
    """Validates `values`; raises StockpotError with the path of the first mistake, and "did you mean".

    `reading` is for what a folder recorded: code that it names is not imported, and the keys of that code not checked.
    """
    try:
        return model.model_validate(values, context={"reading": reading})
    except ValidationError as error:
        errors = error.errors()
        # Of a union's branches, report the one that got furthest: most likely the user meant that one.
        worst = max(errors, key=lambda item: (item["type"] == "extra_forbidden", len(item["loc"])))
        if not any(item["type"] == "extra_forbidden" for item in errors):
            worst = errors[0] if len({tuple(_user_path(item, values)) for item in errors}) == 1 else worst
            text = [
                item
                for item in errors
                if item["type"] == "string_type" and _user_path(item, values) == _user_path(worst, values)
            ]
            worst = text[0] if text else worst  # quotes would fix it
        raise RecipeMistake(f"{source}: {_explain(model, worst, values)}", _user_path(worst, values)) from error


_PLAINLY = {
    **dict.fromkeys(("model_attributes_type", "model_type", "dict_type"), "should be a block of `key: value` lines"),
    "list_type": "should be a list, in [ ] or with a dash before each entry",
    "too_short": "should have at least one entry",
    "string_pattern_mismatch": "should start with a letter or a digit, and have no spaces or slashes",
}


def _explain(model: type[BaseModel], error: Any, values: Any) -> str:
    path = _user_path(error, values)
    place = ".".join(str(part) for part in path)
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        *parents, key = path
        known = _known_keys(model, parents, values)
        hint = did_you_mean(str(key), known) or (f" Known here: {', '.join(known)}." if known else "")
        return f"{place}: unknown key.{hint}"
    if kind == "missing":
        return f"{place}: this key is required."
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        from stockpot.methods import known_names

        known = known_names()
        name = value.get("name") if isinstance(value, dict) else value
        wrong = f"unknown method {name!r}" if name else "a method needs its `name`"
        return f"{place}.name: {wrong}.{did_you_mean(str(name), known)} Known: {', '.join(known)}."
    if kind == "value_error":
        message = str(error["ctx"]["error"]).removesuffix(".")
        return f"{place}: {message}." if place else f"{message}."
    message = _PLAINLY.get(kind) or error["msg"].replace("Input should be", "should be")
    if kind == "list_type" and path == ["tasks"]:
        message = "should be a list of tasks, or {split: N} to cut `data` into tasks of N classes"
    if kind == "string_type" and isinstance(value, dict):
        message = "should be text; in YAML `a: b` is a block, so put text with a colon in quotes"
    elif kind in ("string_type", "string_sub_type", "invalid_key"):
        return f"{place}: should be text{_quotes(value)}."
    shown = "" if isinstance(value, dict | list) else f", not {'null' if value is None else repr(value)}"
    return f"{place}: {message[0].lower()}{message[1:]}{shown}."


def _quotes(value: Any) -> str:
    """How YAML reads a text that has no quotes."""
    if isinstance(value, list):
        return ", not a list"
    words = {None: "nothing", True: "true", False: "false"}
    read = words[value] if value is None or isinstance(value, bool) else f"the number {value!r}"
    return f": YAML reads it as {read}; put it in quotes"


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with `key.sub=value` overrides, checked.

    Args:
        path: a YAML file.
        overrides: `key.sub=value` each; list entries are numbered from 0, values are YAML.

    Raises:
        StockpotError: for the first mistake, with the file, the key, and what to do.
    """
    values = read_yaml(path)
    search_in(path.parent)
    return checked_recipe({"name": as_file_name(path.stem, "recipe"), **values}, overrides, str(path))


def checked_recipe(values: dict[str, Any], overrides: Sequence[str], source: str) -> Recipe:
    """The recipe in `values`, as YAML gives them; a mistake is one of `source`, see `read_recipe`."""
    from stockpot.recipe.train import check_train

    recipe = validate(Recipe, apply_overrides(values, overrides), source)
    check_train(recipe.train, f"{source}: train", recipe.loop)
    check_train(recipe.method.train or {}, f"{source}: method.train", recipe.loop)
    for number, method in enumerate(recipe.compare):
        check_train(method.train or {}, f"{source}: compare.{number}.train", recipe.loop)
    if isinstance(recipe.tasks, list):
        for number, task in enumerate(recipe.tasks):
            check_train(task.train, f"{source}: tasks.{number}.train", recipe.loop)
    return recipe


def read_task(path: Path, overrides: Sequence[str] = ()) -> TaskSpec:
    """The one task in a file, as `stockpot add` takes it. Raises StockpotError for the first mistake."""
    return checked_task(read_yaml(path), overrides, str(path))


def checked_task(values: dict[str, Any], overrides: Sequence[str], source: str) -> TaskSpec:
    """The task in `values`, as YAML gives them; a mistake is one of `source`, see `read_task`."""
    from stockpot.recipe.train import check_train

    task = validate(TaskSpec, apply_overrides(values, overrides), source)
    check_train(task.train, f"{source}: train")
    return task
