"""The options of `stockpot compare`, and how they change the recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError

if TYPE_CHECKING:
    from stockpot.recipe.schema import Recipe

# Options whose flag is not the name of the recipe's key that they set.
_FLAGS = {"minutes": "--budget", "front": "--pareto"}


@dataclass(frozen=True)
class CompareOptions:
    """The command line beside the recipe; None leaves the recipe as it is."""

    methods: str | None = None
    seeds: int | None = None
    orders: int | None = None
    tune: int | None = None
    search: str | None = None
    minutes: str | None = None  # as written: 90s, 30m, 2h
    front: int | None = None
    jobs: int = 1
    engine: str | None = None
    shard: str | None = None


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name}")


def apply_options(recipe: Recipe, options: CompareOptions) -> Recipe:
    """The recipe with the options applied. Raises StockpotError for methods that do not exist."""
    from stockpot.api.recipe_changes import RecipeChanges

    changes = RecipeChanges(
        methods=None if options.methods is None else options.methods.split(","),
        seeds=options.seeds,
        orders=options.orders,
        tune=options.tune,
        search=options.search,
        minutes=_minutes(options.minutes),
        front=options.front,
    )
    return changes.applied(recipe, _flag, "the command line")


def _minutes(text: str | None) -> float | None:
    """`90s`, `30m` or `2h` as minutes."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*([\d.]+)\s*([smh])\s*", text)
    try:
        assert match is not None
        return float(match[1]) * {"s": 1 / 60, "m": 1.0, "h": 60.0}[match[2]]
    except (AssertionError, ValueError) as error:
        raise StockpotError(f"{_flag('minutes')}: {text!r} is not a time; write 90s, 30m or 2h.") from error


def command_line(recipe_file: Path, overrides: Sequence[str], path: Path, options: CompareOptions) -> str:
    """The command that continues this comparison."""
    flags = [
        word
        for name, value in vars(options).items()
        if value is not None and (name, value) != ("jobs", 1)
        for word in (_flag(name), str(value))
    ]
    return shlex.join(["stockpot", "compare", str(recipe_file), *overrides, *flags, "-o", str(path)])
