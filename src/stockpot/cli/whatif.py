"""`stockpot whatif`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.arguments import AllowCode, RunArgument, RunCode, RunCodeUnsandboxed
from stockpot.cli.console import say, show
from stockpot.cli.json_document import Json, one_document


def whatif_command(
    folder: RunArgument,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B", help="default: every method that merges after training")
    ] = None,
    points: Annotated[
        int, typer.Option("--points", min=2, max=1001, help="number of values of each method's strength")
    ] = 11,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="default: RUN/whatif")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="default: one per core")] = None,
    allow_code: AllowCode = False,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
    as_json: Json = False,
) -> None:
    """Evaluate every merge of a finished `sequential` run's checkpoints, at every strength; trains nothing."""
    from stockpot.api.merge_sweep import whatif
    from stockpot.comparisons.whatif import FILE, OPTIMISTIC
    from stockpot.report.terminal import whatif_table

    with one_document(as_json) as hand_over:
        done = whatif(
            folder,
            methods=None if methods is None else [name.strip() for name in methods.split(",") if name],
            points=points,
            output=output,
            threads=threads,
            allow_code=allow_code,
            run_code=run_code,
            run_code_unsandboxed=run_code_unsandboxed,
        )
        page = done.report(again=True)
        show(whatif_table(done.results))
        for warning in sorted(done.notes, key=OPTIMISTIC.__eq__):  # the most important one last, where it is read
            say(f"Note: {warning}")
        say(f"Numbers: {done.path / FILE}")
        say(f"Report:  {page}")
        hand_over(done.results)
