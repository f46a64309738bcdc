"""All mistakes of a recipe at once: each is noted and taken out of the way, until what is left can be read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from stockpot.errors import RecipeMistake, StockpotError
from stockpot.recipe.read import apply_overrides, validate
from stockpot.recipe.schema import Recipe
from stockpot.recipe.train import check_train

_MOST = 100  # mistakes
# What stands in for a required block that is missing or wrong, so that the rest can be read.
_STAND_INS: dict[str, Any] = {"model": {"name": "model"}, "tasks": [{"name": "task"}]}
_Place = Sequence[str | int]


def recipe_mistakes(
    values: Mapping[str, Any], overrides: Sequence[str], source: str
) -> tuple[Recipe | None, list[RecipeMistake | StockpotError]]:
    """The recipe without what is wrong in it, None if nothing can be read, and every mistake.

    Args:
        values: the recipe as YAML gives it.
        overrides: `key.sub=value` each.
        source: where the recipe comes from, for messages.
    """
    mistakes: list[RecipeMistake | StockpotError] = []
    current: dict[str, Any] = dict(values)
    for override in overrides:
        try:
            current = apply_overrides(current, [override])
        except StockpotError as error:
            mistakes.append(error)
    current = copy.deepcopy(current)
    recipe: Recipe | None = None
    taken: set[tuple[str | int, ...]] = set()
    while recipe is None and len(taken) < _MOST:
        try:
            recipe = validate(Recipe, current, source)
        except RecipeMistake as mistake:
            mistakes.append(mistake)
            if mistake.place in taken or not _taken_out(current, mistake.place):
                return None, mistakes
            taken.add(mistake.place)
    if recipe is not None:
        mistakes += _of_train(recipe, source)
    return recipe, mistakes


def _taken_out(values: dict[str, Any], place: _Place) -> bool:
    """Takes the value at a place out of the recipe; false if there is none to take out."""
    if not place:
        return False
    *parents, last = place
    target: Any = values
    for part in parents:
        try:
            target = target[part]
        except (KeyError, IndexError, TypeError):
            return False
    if len(place) == 1 and last in _STAND_INS:
        target[last] = copy.deepcopy(_STAND_INS[last])
    elif last == "name" and parents and parents[0] in ("tasks", "controls") and isinstance(target, dict):
        target["name"] = "-".join(map(str, parents))
    elif isinstance(target, dict) and last in target:
        del target[last]
    elif isinstance(target, list) and last in range(len(target)):
        target[int(last)] = {"name": "-".join(map(str, place))} if parents == ["tasks"] else {}
    else:
        return False
    return True


def _of_train(recipe: Recipe, source: str) -> list[RecipeMistake | StockpotError]:
    """The mistakes of all blocks of training settings, key by key."""
    blocks = {"train": recipe.train, "method.train": recipe.method.train or {}}
    blocks |= {f"compare.{number}.train": method.train or {} for number, method in enumerate(recipe.compare)}
    if isinstance(recipe.tasks, list):
        blocks |= {f"tasks.{number}.train": task.train for number, task in enumerate(recipe.tasks)}
    mistakes: list[RecipeMistake | StockpotError] = []
    for place, settings in blocks.items():
        loop = recipe.loop if place.startswith(("train", "method", "compare")) else "trainer"
        for key, value in settings.items():
            others = {"max_steps": settings["max_steps"]} if "max_steps" in settings else {}
            try:
                check_train({key: value} if key == "max_steps" else {**others, key: value}, f"{source}: {place}", loop)
            except StockpotError as error:
                mistakes.append(RecipeMistake(str(error), [*place.split("."), key]))
    return mistakes
