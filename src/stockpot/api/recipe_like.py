"""What the calls take: a recipe or task as a file, a dict or an object, and where a run is written by default."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from stockpot.errors import StockpotError, did_you_mean
from stockpot.plugins import dotted_path_of
from stockpot.streams.passed_data import is_data_set, is_passed, is_split_data_set, pass_data

if TYPE_CHECKING:
    from pydantic import BaseModel

    from stockpot.recipe.schema import Recipe
    from stockpot.streams.spec import TaskSpec

    RecipeLike: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Recipe
    TaskLike: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | TaskSpec
    _M = TypeVar("_M", bound=BaseModel)


def as_recipe(recipe: RecipeLike, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file or a dict, checked, with `key.sub=value` overrides; a Recipe as it is, if there are none.

    Raises:
        StockpotError: for the first mistake.
    """
    from stockpot.recipe.read import checked_recipe, read_recipe
    from stockpot.recipe.schema import Recipe

    named = _with_named_methods(recipe) if isinstance(recipe, Mapping) else recipe
    return _checked(named, overrides, Recipe, "recipe", read_recipe, checked_recipe)


def recognised(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with what its data say filled in; and what was guessed and why, a line each.

    Raises:
        StockpotError: data cannot be opened, or allow several readings.
    """
    from stockpot.recipe.recognised import Recognition

    recognition = Recognition()
    return recognition.of_recipe(recipe), recognition.guesses


@contextlib.contextmanager
def explaining(guesses: Sequence[str]) -> Iterator[None]:
    """Adds to a mistake what was guessed of the data that it names: the guess may be the mistake."""
    try:
        yield
    except StockpotError as error:
        message = str(error)
        if said := [guess for guess in guesses if guess.partition(": ")[0] in message]:
            raise StockpotError(f"{message} Guessed from the data: {'; '.join(said)}.") from error
        raise


def as_task(task: TaskLike, overrides: Sequence[str] = ()) -> TaskSpec:
    """A task, as `as_recipe` takes recipes."""
    from stockpot.recipe.read import checked_task, read_task
    from stockpot.streams.spec import TaskSpec

    return _checked(task, overrides, TaskSpec, "task", read_task, checked_task)


def _checked(
    value: Any,
    overrides: Sequence[str],
    model: type[_M],
    noun: str,
    read: Callable[[Path, Sequence[str]], _M],
    check: Callable[[dict[str, Any], Sequence[str], str], _M],
) -> _M:
    """A block of `model` as an object, a dict or a file."""
    if isinstance(overrides, str):
        raise StockpotError(f"overrides: give a list, [{overrides!r}].")
    if isinstance(value, model):
        if not overrides:
            return value
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return check(plain(value), overrides, f"the {noun}")
    if not isinstance(value, str | os.PathLike):
        raise StockpotError(f"{type(value).__name__} is not a {noun}: give the path of a file, or a dict.")
    return read(Path(value), overrides)


def method_names(methods: Sequence[Any] | None) -> list[str] | None:
    """Names of methods, of which some may be classes. Raises StockpotError where a text stands for the list."""
    if isinstance(methods, str):
        raise StockpotError(f"methods: give a list, {methods.split(',')}.")
    return None if methods is None else [plain(method) for method in methods]


def _with_named_methods(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe in which each class that stands for a method is its block: `Damp` is `{"name": Damp}`."""

    def block(method: Any) -> Any:
        return {"name": method} if isinstance(method, type) else method

    values = dict(recipe)
    if "method" in values:
        values["method"] = block(values["method"])
    if isinstance(values.get("compare"), list | tuple):
        values["compare"] = [block(method) for method in values["compare"]]
    return values


def plain(values: Any) -> Any:
    """The values as YAML would give them: paths become text, tuples lists, and what NumPy has plain numbers.

    Classes and functions become their dotted paths, and data sets the path by which this process knows them. Raises
    StockpotError for what cannot be named.
    """
    if is_split_data_set(values) or is_data_set(values):
        return pass_data(values, "the recipe: data")
    if isinstance(values, Mapping):
        return {key: _block(key, plain(value)) for key, value in values.items()}
    if isinstance(values, list | tuple | range):
        return [plain(value) for value in values]
    if isinstance(values, os.PathLike):
        return os.fspath(values)
    if callable(values):
        return dotted_path_of(values, "the recipe")
    return values.tolist() if hasattr(values, "tolist") else values


def _block(key: Any, value: Any) -> Any:
    return {"path": value} if key == "data" and isinstance(value, str) and is_passed(value) else value


def recipe_values(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe in a dict as YAML would give it."""
    return dict(plain(_with_named_methods(recipe)))


def with_data(recipe: Recipe, data: Any) -> Recipe:
    """The recipe with data sets that were passed beside it: one for all tasks, or a dict of them by name of a task.

    Raises:
        StockpotError: a name is not that of a task or control, or something is not a data set.
    """
    from stockpot.streams.spec import DataSpec

    if data is None:
        return recipe
    tasks: list[TaskSpec] = recipe.tasks if isinstance(recipe.tasks, list) else []
    names = [task.name for task in (*tasks, *recipe.controls)]

    def holding(block: DataSpec, value: Any, where: str) -> DataSpec:
        if not (is_data_set(value) or is_split_data_set(value)):
            raise StockpotError(f"{where}: {type(value).__name__} is not a data set of `datasets` or PyTorch.")
        return block.model_copy(update={"path": pass_data(value, where)})

    by_task = isinstance(data, Mapping) and not hasattr(data, "column_names") and any(name in names for name in data)
    if not by_task:
        return recipe.model_copy(update={"data": holding(recipe.data, data, "data")})
    if unknown := [str(name) for name in data if name not in names]:
        hint = did_you_mean(unknown[0], names)
        raise StockpotError(f"data: there is no task {unknown[0]!r}.{hint} Known: {', '.join(names)}.")

    def filled(blocks: Sequence[TaskSpec]) -> list[TaskSpec]:
        return [
            block.model_copy(update={"data": holding(block.data, data[block.name], f"data: {block.name!r}")})
            if block.name in data
            else block
            for block in blocks
        ]

    return recipe.model_copy(update={"tasks": filled(tasks), "controls": filled(recipe.controls)})


def passed_names(recipe: Recipe) -> list[str]:
    """What holds a data set that was passed in Python: `data`, or names of tasks and controls."""
    tasks = recipe.tasks if isinstance(recipe.tasks, list) else []
    named = [task.name for task in (*tasks, *recipe.controls) if is_passed(task.data.path)]
    return [*(["data"] if is_passed(recipe.data.path) else []), *named]


def default_folder(recipe: Recipe) -> Path:
    """The folder of a run or comparison for which none is named."""
    return Path("runs") / (recipe.name or "run")
