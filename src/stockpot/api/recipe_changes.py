"""What `stockpot.compare` and the options of `stockpot compare` change in a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stockpot.errors import StockpotError, did_you_mean
from stockpot.methods import known_names
from stockpot.plugins import is_dotted_path
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe


@dataclass(frozen=True)
class RecipeChanges:
    """None leaves the recipe as it is."""

    methods: Sequence[str] | None = None  # labels of the recipe's methods, or names of others
    seeds: int | None = None
    orders: int | None = None
    tune: int | None = None  # trials
    search: str | None = None
    minutes: float | None = None
    front: int | None = None  # points

    def applied(
        self, recipe: Recipe, spelt: Callable[[str], str] = str, source: str = "the changes of the recipe"
    ) -> Recipe:
        """The changed recipe.

        Args:
            recipe: the recipe; it is not changed itself.
            spelt: how the user writes the name of a change.
            source: where the user wrote it.

        Raises:
            StockpotError: for methods that do not exist, and values that a recipe cannot have.
        """
        values = recipe.model_dump(mode="json", exclude_unset=True)  # what is not set is searched, or has its default
        if self.methods is not None:
            values["compare"] = [_method(name.strip(), recipe, spelt) for name in self.methods if name.strip()]
        if self.seeds is not None:
            more = (seed for seed in range(self.seeds + len(recipe.seeds)) if seed not in recipe.seeds)
            values["seeds"] = [*recipe.seeds, *more][: self.seeds]
        for key, value in (("orders", self.orders), ("front", self.front)):
            if value is not None:
                values[key] = value
        if self.tune is not None:
            values["tune"] = {**values.get("tune", {}), "trials": self.tune}
        if self.methods is not None and (ranges := values.get("tune", {}).get("ranges")):
            compared = {name for method in values["compare"] for name in (method["name"], method.get("label"))}
            values["tune"]["ranges"] = {label: keys for label, keys in ranges.items() if label in compared}
        for key, setting in (("search", self.search), ("minutes", self.minutes)):
            if setting is not None:
                if "tune" not in values:
                    raise StockpotError(f"{spelt(key)} is for tuning: give {spelt('tune')} TRIALS too.")
                values["tune"][key] = setting
        return validate(Recipe, values, source)


def _method(name: str, recipe: Recipe, spelt: Callable[[str], str]) -> dict[str, object]:
    """The method of the recipe's `compare` that has this label, else the method of this name with its defaults."""
    for method in (*recipe.compare, recipe.method):
        if method.title == name:
            return dict(method.model_dump(mode="json", exclude_unset=True))
    if name not in known_names() and not is_dotted_path(name):
        known = list(dict.fromkeys([*(method.title for method in recipe.compare), *known_names()]))
        hint = did_you_mean(name, known)
        raise StockpotError(f"{spelt('methods')}: there is no {name!r}.{hint} Known: {', '.join(known)}.")
    return {"name": name}


def parse_shard(shard: str | None, spelt: str = "shard") -> tuple[int, int]:
    """`2/4` as (2, 4); (1, 1) for None."""
    if shard is None:
        return 1, 1
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise StockpotError(f"{spelt}: {shard!r} is not a share; write 1/4, 2/4, 3/4 and 4/4 for four shards.")
    return int(match[1]), int(match[2])
