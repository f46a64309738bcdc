"""`stockpot add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.arguments import AllowCode, Overrides, RunArgument, RunCode, RunCodeUnsandboxed
from stockpot.cli.finish import finish_run
from stockpot.cli.interrupts import explaining_stops, resume_command_of
from stockpot.cli.json_document import Json, one_document


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
    as_json: Json = False,
) -> None:
    """Learn the next task on top of a finished run."""
    from stockpot.api.single_run import add

    with one_document(as_json) as hand_over:
        with explaining_stops(resume_command_of):
            done = add(
                folder,
                task_file,
                overrides or [],
                output=output,
                allow_code=allow_code,
                run_code=run_code,
                run_code_unsandboxed=run_code_unsandboxed,
            )
        finish_run(done)
        hand_over(done.results)
