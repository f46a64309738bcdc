"""`stockpot schema`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from stockpot.cli.console import say
from stockpot.errors import StockpotError, did_you_mean


def schema_command(
    what: Annotated[str, typer.Argument(metavar="[recipe|task|results|comparison|whatif]")] = "recipe",
) -> None:
    """Print a JSON schema: of recipes and tasks for editors, of results for programs."""
    say(json.dumps(schema_of(what), indent=2))


def schema_of(what: str) -> dict[str, Any]:
    """The JSON schema of a recipe, a task, results, a comparison or what-if numbers."""
    from stockpot.recipe.schema import Recipe
    from stockpot.results import Comparison, Results, WhatIf
    from stockpot.streams.spec import TaskSpec

    models: dict[str, Any] = {"recipe": Recipe, "task": TaskSpec, "results": Results, "comparison": Comparison,
                              "whatif": WhatIf}  # fmt: skip
    if what not in models:
        raise StockpotError(f"there is no schema {what!r}.{did_you_mean(what, models)} Known: {', '.join(models)}.")
    schema: dict[str, Any] = models[what].model_json_schema()
    return schema
