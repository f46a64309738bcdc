"""Code that a recipe names and Stockpot does not bring: recorded when a run is created, imported again with consent."""

from __future__ import annotations

from typing import Any

from stockpot.errors import StockpotError
from stockpot.methods import find_method, registry
from stockpot.plugins import is_dotted_path, search_in, searched_folders
from stockpot.recipe.schema import Recipe
from stockpot.runs.events import BroughtCode
from stockpot.runs.folder import RunFolder
from stockpot.spelling import option


def named_code(recipe: Recipe) -> list[str]:
    """The dotted paths in a recipe, the model's apart: importing them runs code."""
    names = [method.name for method in (recipe.method, *recipe.compare)]
    return [name for name in dict.fromkeys(names) if is_dotted_path(name)]


def decided_method(recipe: Recipe, rows: int) -> dict[str, Any]:
    """The parameters of the recipe's method, as they are for a stream with this many output rows."""
    method = recipe.method.decided(rows, not recipe.has_classes)
    return method.model_dump(mode="json", exclude_none=True)


def brought_code(recipe: Recipe, rows: int) -> BroughtCode | None:
    """What a run records of code that the user or a package brings; None where there is none."""
    if recipe.method.name in registry():
        return None
    return {
        "folders": searched_folders(),
        "method": decided_method(recipe, rows),
        "forgets": find_method(recipe.method.name).forgets,
    }


def open_code(run: RunFolder, allowed: bool) -> None:
    """Lets the run's recipe import the code that it names.

    Raises StockpotError where a dotted path is named and not allowed: the folder may come from others. What installed
    packages register needs no consent, since the user installed them.
    """
    names = named_code(run.recipe)
    if names and not allowed:
        raise StockpotError(
            f"{run.path}: its recipe names the code at {', '.join(map(repr, names))}; read it, and add "
            f"{option('allow_code')} to import it."
        )
    for folder in run.created.get("brought", {}).get("folders", []) if names else []:
        search_in(folder)
    run.import_code()
