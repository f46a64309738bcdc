"""Code that a recipe names and Stockpot does not bring: recorded when a run is created, imported again with consent."""

from __future__ import annotations

from typing import Any

from stockpot.errors import StockpotError
from stockpot.evaluation.scores import SCORES
from stockpot.methods import find_method, registry
from stockpot.models.dotted_path import users_builder
from stockpot.plugins import is_dotted_path, search_in, searched_folders, source_digest
from stockpot.recipe.schema import Recipe
from stockpot.runs.events import BroughtCode, SharedRows
from stockpot.runs.folder import RunFolder
from stockpot.spelling import option
from stockpot.streams.scenario import SCENARIOS, Rows


def named_code(recipe: Recipe) -> list[str]:
    """The dotted paths in a recipe, the model's apart: importing them runs code."""
    names = [method.name for method in (recipe.method, *recipe.compare)]
    names += [recipe.scenario, *(score.name for score in recipe.metrics)]
    return [name for name in dict.fromkeys(names) if is_dotted_path(name)]


def decided_method(recipe: Recipe, rows: int) -> dict[str, Any]:
    """The parameters of the recipe's method, as they are for a stream with this many output rows."""
    method = recipe.method.decided(rows, not recipe.has_classes)
    return method.model_dump(mode="json", exclude_none=True)


def recorded_rows(rows: Rows) -> SharedRows | None:
    """What a run records of its output rows, where the user or a package brings the scenario."""
    if rows.scenario in SCENARIOS:
        return None
    return {"tasks": [list(task) for task in rows.tasks], "names": list(rows.names)}


def rows_of(run: RunFolder) -> Rows:
    """The output rows of a run; those of a scenario that the user brought as they were recorded."""
    scenario = run.recipe.scenario
    if scenario in SCENARIOS:
        return Rows.of(scenario, [(task.name, run.facts[task.name]["classes"]) for task in run.tasks])
    recorded = [run.created["brought"]["rows"], *(event["rows"] for event in run.journal.of("added"))][-1]
    return Rows(scenario, tuple(map(tuple, recorded["tasks"])), tuple(recorded["names"]))


def _sources(recipe: Recipe) -> dict[str, str]:
    """The digest of the file of each dotted path that has one."""
    return {path: digest for path in named_code(recipe) if (digest := source_digest(path)) is not None}


def changed_code(run: RunFolder) -> list[str]:
    """What a reader must know of code that is not what it was when the run was created; it is imported by now."""
    recorded = run.created.get("brought", {}).get("sources", {})
    changed = [path for path, digest in _sources(run.recipe).items() if recorded.get(path, digest) != digest]
    return [f"the file of {path} was changed after the run was created" for path in changed]


def brought_code(recipe: Recipe, rows: Rows) -> BroughtCode | None:
    """What a run records of code that the user or a package brings; None where there is none."""
    brought: BroughtCode = {"folders": searched_folders()}
    if sources := _sources(recipe):
        brought["sources"] = sources
    if recipe.method.name not in registry():
        brought["method"] = decided_method(recipe, rows.count(len(rows.tasks)))
        brought["forgets"] = find_method(recipe.method.name).forgets
    scores = [score for score in recipe.metrics if score.name not in SCORES]
    if scores:
        brought["scores"] = {
            score.title: {"unit": score.unit, "higher_is_better": score.higher_is_better} for score in scores
        }
    if shared := recorded_rows(rows):
        brought["rows"] = shared
    return brought if len(brought) > 1 or users_builder(recipe.model.build) else None


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
    if names:
        search_recorded(run)
    run.import_code()


def search_recorded(run: RunFolder) -> None:
    """Lets dotted paths name modules that lay beside the recipe when the run was created; the user has agreed."""
    for folder in run.created.get("brought", {}).get("folders", []):
        search_in(folder)
