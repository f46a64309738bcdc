"""`stockpot resume`."""

from __future__ import annotations

from stockpot.cli.arguments import AllowCode, RunArgument, RunCode, RunCodeUnsandboxed
from stockpot.cli.console import say
from stockpot.cli.finish import finish_run
from stockpot.cli.interrupts import stopping_after_step
from stockpot.cli.preparation import prepare_command
from stockpot.errors import StockpotError


def resume_command(
    folder: RunArgument,
    allow_code: AllowCode = False,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Continue an interrupted run from wherever it stopped."""
    prepare_command(run_code, run_code_unsandboxed)
    from stockpot.runs.folder import RunFolder

    if (folder / "recipe.yaml").is_file() and (folder / "cells").is_dir():
        raise StockpotError(f"{folder}: this is a comparison; run its `stockpot compare` again, which continues it.")
    if RunFolder.open(folder).is_finished:
        say("Every task is learnt already; writing the report again.")
    with stopping_after_step(f"stockpot resume {folder}") as stop:
        finish_run(folder, stop, allow_code)
