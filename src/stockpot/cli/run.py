"""`stockpot run`."""

from __future__ import annotations

from stockpot.cli.arguments import (
    Output,
    Overrides,
    RecipeFile,
    RunCode,
    RunCodeUnsandboxed,
    default_output,
)
from stockpot.cli.console import say
from stockpot.cli.finish import finish_run
from stockpot.cli.interrupts import stopping_after_step
from stockpot.cli.preparation import prepare_command


def run_command(
    recipe_file: RecipeFile,
    overrides: Overrides = None,
    output: Output = None,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Fine-tune on the recipe's stream of tasks with one method; leaves a run folder."""
    prepare_command(run_code, run_code_unsandboxed)
    from stockpot.recipe.read import read_recipe
    from stockpot.runs.actions import create_run

    recipe = read_recipe(recipe_file, overrides or [])
    path = output or default_output(recipe.name)
    with stopping_after_step(f"stockpot resume {path}") as stop:
        opened = create_run(recipe, recipe.method, recipe.seeds[0], path)
        if len(recipe.seeds) > 1:
            say(f"The recipe has {len(recipe.seeds)} seeds; `run` uses the first, {recipe.seeds[0]}.")
        finish_run(path, stop, allow_code=True, opened=opened)
