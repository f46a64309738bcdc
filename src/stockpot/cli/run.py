"""`stockpot run`."""

from __future__ import annotations

from stockpot.api.launchers import refuse_launchers
from stockpot.cli.arguments import Output, Overrides, RecipeFile, RunCode, RunCodeUnsandboxed
from stockpot.cli.console import say
from stockpot.cli.finish import finish_run
from stockpot.cli.interrupts import explaining_stops, resume_command_of
from stockpot.cli.json_document import Json, one_document


def run_command(
    recipe_file: RecipeFile,
    overrides: Overrides = None,
    output: Output = None,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
    as_json: Json = False,
) -> None:
    """Fine-tune on the recipe's stream of tasks with one method; leaves a run folder."""
    refuse_launchers()
    from stockpot.api.recipe_like import as_recipe
    from stockpot.api.single_run import run

    with one_document(as_json) as hand_over:
        recipe = as_recipe(recipe_file, overrides or [])
        if len(recipe.seeds) > 1:
            say(f"The recipe has {len(recipe.seeds)} seeds; `run` uses the first, {recipe.seeds[0]}.")
        with explaining_stops(resume_command_of):
            done = run(
                recipe,
                output=output,
                run_code=run_code,
                run_code_unsandboxed=run_code_unsandboxed,
            )
        finish_run(done)
        hand_over(done.results)
