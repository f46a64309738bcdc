"""`stockpot resume`."""

from __future__ import annotations

from stockpot.api.launchers import refuse_launchers
from stockpot.cli.arguments import AllowCode, RunArgument, RunCode, RunCodeUnsandboxed
from stockpot.cli.console import say
from stockpot.cli.finish import finish_run
from stockpot.cli.interrupts import explaining_stops, resume_command_of
from stockpot.cli.json_document import Json, one_document


def resume_command(
    folder: RunArgument,
    allow_code: AllowCode = False,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
    as_json: Json = False,
) -> None:
    """Continue an interrupted run from wherever it stopped."""
    refuse_launchers()
    from stockpot.api.single_run import resumable, resume

    with one_document(as_json) as hand_over:
        if resumable(folder).is_finished:
            say("Every task is learnt already; writing the report again.")
        with explaining_stops(resume_command_of):
            done = resume(folder, allow_code=allow_code, run_code=run_code, run_code_unsandboxed=run_code_unsandboxed)
        finish_run(done)
        hand_over(done.results)
