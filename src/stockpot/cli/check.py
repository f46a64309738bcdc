"""`stockpot check`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.api.launchers import refuse_launchers
from stockpot.cli.arguments import Output, Overrides, RecipeFile, RunCode, RunCodeUnsandboxed
from stockpot.cli.console import say, show_wrapped
from stockpot.cli.json_document import Json, one_document

if TYPE_CHECKING:
    from stockpot.checking.result import CheckResult


def check_command(
    recipe_file: RecipeFile,
    overrides: Overrides = None,
    examples: Annotated[int, typer.Option("-n", min=0, metavar="N", help="training examples of each task")] = 3,
    time: Annotated[bool, typer.Option("--time", help="time a few batches, to estimate a run's time")] = False,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="write images after the processor here, as PNG")
    ] = None,
    output: Output = None,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
    as_json: Json = False,
) -> None:
    """Read and count everything that a run would, show examples, list all problems; train nothing."""
    refuse_launchers()
    from stockpot.api.checks import check

    with one_document(as_json) as hand_over:
        result = check(
            recipe_file,
            overrides or [],
            n=examples,
            time=time,
            images=images,
            output=output,
            run_code=run_code,
            run_code_unsandboxed=run_code_unsandboxed,
        )
        if as_json:
            hand_over(result.as_values())
        else:
            _print(result)
    if not result.ok:
        raise typer.Exit(2)


def _print(result: CheckResult) -> None:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        say(str(result))
        return
    from rich.text import Text

    from stockpot.checking.words import CONTEXT, ERROR, HEAD, LEARNT, WARNING, styled_lines

    styles: dict[str, Any] = {LEARNT: "bold green", CONTEXT: "dim", HEAD: "bold", ERROR: "red", WARNING: "yellow"}
    for line in styled_lines(result):
        show_wrapped(Text.assemble(*((piece.text, styles.get(piece.style, "")) for piece in line)))
