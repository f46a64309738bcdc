"""A recipe made explicit, as a run folder records it: tasks listed, data inherited, local paths absolute."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.scores import SCORES, AnyScore
from stockpot.methods.base import BaseConfig
from stockpot.recipe.schema import Recipe, Split
from stockpot.streams.classes import split_classes
from stockpot.streams.spec import DataSpec, MixSpec, TaskSpec, inherit
from stockpot.yaml_text import dump_yaml

_Data = TypeVar("_Data", bound=DataSpec)


def absolute(path: str) -> str:
    """The absolute path of a local folder; a name on the hub is returned unchanged."""
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.exists() else path


def _located(data: _Data) -> _Data:
    if data.path in (None, "digits"):
        return data
    return data.model_copy(update={"path": absolute(str(data.path))})


def resolve_task(task: TaskSpec, default: DataSpec, mix: MixSpec | None = None) -> TaskSpec:
    """The task with everything that it inherits written out: keys of `data`, and the general data mixed into it."""
    mix = task.mix or mix
    changes = {"data": _located(inherit(default, task.data)), "mix": None if mix is None else _located(mix)}
    return task.model_copy(update=changes)


def listed_tasks(recipe: Recipe) -> list[TaskSpec]:
    """The recipe's tasks; a `split` is carried out."""
    if isinstance(recipe.tasks, Split):
        return split_classes(recipe.data, recipe.tasks.split, recipe.tasks.shuffle)
    return recipe.tasks


def resolve(recipe: Recipe, method: BaseConfig, seed: int) -> Recipe:
    """The recipe of one run: one method, one seed, a list of tasks.

    Raises StockpotError where the method cannot do anything on this stream, or a file that it names is missing.
    """
    tasks = [resolve_task(task, recipe.data, recipe.mix) for task in listed_tasks(recipe)]
    if mixing := [task.name for task in recipe.controls if task.mix is not None]:
        raise StockpotError(f"controls: {mixing[0]!r}: mix: a control is never trained on; drop the key.")
    method = method.settled(recipe.model.origin).located(_located)
    problem = method.problem_with(len(tasks))
    if problem:
        raise StockpotError(f"method {method.title!r}: {problem}")
    changes: dict[str, Any] = {
        "tasks": tasks,
        "controls": [resolve_task(task, recipe.data) for task in recipe.controls],
        "data": _located(recipe.data),
        "mix": None if recipe.mix is None else _located(recipe.mix),
        "train": {**recipe.train, **(method.train or {})},
        "metrics": [_titled(score) for score in recipe.metrics],
        "compare": [],
        "seeds": [seed],
        "orders": 1,
        "tune": None,
        "front": None,
    }
    named = {
        key: absolute(path)
        for key in ("name", "base", "tokenizer")
        if isinstance(path := getattr(recipe.model, key), str)
    }
    changes["model"] = recipe.model.model_copy(update=named)
    changes["method"] = method.model_copy(update=_absolute_paths(method))
    return recipe.model_copy(update=changes)


def _titled(score: AnyScore) -> AnyScore:
    """A score that the user brings with its title as a label, which readers then know without its code."""
    return score if score.name in SCORES else score.model_copy(update={"label": score.title})


def _absolute_paths(method: BaseConfig) -> dict[str, str]:
    """The method's keys that name files, with absolute paths. Raises StockpotError where there is no such file."""
    paths = {}
    for key, words in method.path_keys.items():
        path = getattr(method, key)
        if not isinstance(path, str) or path in words:
            continue
        if not Path(path).expanduser().exists():
            hint = did_you_mean(path, words)
            raise StockpotError(f"method {method.title!r}: {key}: {path}: there is no such file or folder.{hint}")
        paths[key] = absolute(path)
    return paths


def to_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, without keys that are null by default."""
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    _write_nulls(recipe, values)
    return values


def _write_nulls(block: BaseModel, values: dict[str, Any]) -> None:
    """Writes keys that are null, and by default something else: `extract: null` takes the whole answer."""
    for key, field in type(block).model_fields.items():
        value = getattr(block, key)
        if value is None and field.get_default(call_default_factory=True) is not None:
            values[key] = None
        if isinstance(value, BaseModel):
            _write_nulls(value, values[key])
        for place, entry in enumerate(value if isinstance(value, list) else ()):
            if isinstance(entry, BaseModel):
                _write_nulls(entry, values[key][place])


def to_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML, in the order of the schema."""
    return dump_yaml(values, width=120)
