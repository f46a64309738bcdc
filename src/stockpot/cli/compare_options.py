"""The options of `stockpot compare`, and how they change the recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError, did_you_mean

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
    from stockpot.recipe.read import validate
    from stockpot.recipe.schema import Recipe

    values = recipe.model_dump(mode="json", exclude_unset=True)  # what is not set is searched, or has its default
    if options.methods is not None:
        values["compare"] = [_method(name.strip(), recipe) for name in options.methods.split(",") if name.strip()]
    if options.seeds is not None:
        more = (seed for seed in range(options.seeds + len(recipe.seeds)) if seed not in recipe.seeds)
        values["seeds"] = [*recipe.seeds, *more][: options.seeds]
    for key, value in (("orders", options.orders), ("front", options.front)):
        if value is not None:
            values[key] = value
    if options.tune is not None:
        values["tune"] = {**values.get("tune", {}), "trials": options.tune}
    if options.methods is not None and (ranges := values.get("tune", {}).get("ranges")):
        compared = {name for method in values["compare"] for name in (method["name"], method.get("label"))}
        values["tune"]["ranges"] = {label: keys for label, keys in ranges.items() if label in compared}
    for key, setting in (("search", options.search), ("minutes", _minutes(options.minutes))):
        if setting is not None:
            if "tune" not in values:
                raise StockpotError(f"{_flag(key)} is for tuning: give --tune TRIALS too.")
            values["tune"][key] = setting
    return validate(Recipe, values, "the command line")


def _method(name: str, recipe: Recipe) -> dict[str, object]:
    """The method of the recipe's `compare` that has this label, else the method of this name with its defaults."""
    from stockpot.methods import registry

    for method in (*recipe.compare, recipe.method):
        if method.title == name:
            return dict(method.model_dump(mode="json", exclude_unset=True))
    if name not in registry():
        known = list(dict.fromkeys([*(method.title for method in recipe.compare), *registry()]))
        raise StockpotError(f"--methods: there is no {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return {"name": name}


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


def parse_shard(shard: str | None) -> tuple[int, int]:
    """`2/4` as (2, 4); (1, 1) for None."""
    if shard is None:
        return 1, 1
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise StockpotError(f"--shard: {shard!r} is not a share; write 1/4, 2/4, 3/4 and 4/4 for four shards.")
    return int(match[1]), int(match[2])


def command_line(recipe_file: Path, overrides: Sequence[str], path: Path, options: CompareOptions) -> str:
    """The command that continues this comparison."""
    flags = [
        word
        for name, value in vars(options).items()
        if value is not None and (name, value) != ("jobs", 1)
        for word in (_flag(name), str(value))
    ]
    return shlex.join(["stockpot", "compare", str(recipe_file), *overrides, *flags, "-o", str(path)])
