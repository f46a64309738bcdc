"""`stockpot add`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.arguments import AllowCode, Overrides, RunArgument, RunCode, RunCodeUnsandboxed
from stockpot.cli.finish import finish_run
from stockpot.cli.interrupts import stopping_after_step
from stockpot.cli.preparation import prepare_command
from stockpot.errors import StockpotError


def add_command(
    folder: RunArgument,
    task_file: Annotated[Path, typer.Argument(metavar="TASK", help="a file with one entry of `tasks`")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="NEW", help="branch: leave RUN as it is, continue in NEW")
    ] = None,
    allow_code: AllowCode = False,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Learn the next task on top of a finished run."""
    prepare_command(run_code, run_code_unsandboxed)
    from stockpot.recipe.read import read_task
    from stockpot.runs.actions import add_task, branch

    task = read_task(task_file, overrides or [])
    target = output or folder
    with stopping_after_step(f"stockpot resume {target}") as stop:
        if output is not None:
            branch(folder, output)
        try:
            add_task(target, task, allow_code=allow_code)
        except StockpotError:
            if output is not None:  # the branch was made a moment ago, and nothing was learnt in it
                shutil.rmtree(output)
            raise
        finish_run(target, stop, allow_code)
