"""`stockpot run`."""

from __future__ import annotations

from stockpot.cli.arguments import Output, Overrides, RecipeFile, RunCode, RunCodeUnsandboxed
from stockpot.cli.finish import finish_run
from stockpot.cli.interrupts import explaining_stops, resume_command_of


def run_command(
    recipe_file: RecipeFile,
    overrides: Overrides = None,
    output: Output = None,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Fine-tune on the recipe's stream of tasks with one method; leaves a run folder."""
    from stockpot.api.single_run import run

    with explaining_stops(resume_command_of):
        done = run(
            recipe_file,
            overrides or [],
            output=output,
            run_code=run_code,
            run_code_unsandboxed=run_code_unsandboxed,
        )
    finish_run(done)
