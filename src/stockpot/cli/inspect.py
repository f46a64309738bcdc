"""`stockpot inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.arguments import Threads


def inspect_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="folders, .safetensors files, adapters")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE|FOLDER", help="for two: draw distance and cosine by depth"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="list every tensor on its own line")] = False,
    ties: Annotated[bool, typer.Option("--ties", help="for one: find equal tensors; reads their bytes")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the facts as JSON")] = False,
    allow_bin: Annotated[bool, typer.Option("--allow-bin", help="load the tensors of .bin files")] = False,
    threads: Threads = None,
) -> None:
    """Show what a checkpoint holds, from its headers; for two, how far apart their tensors are."""
    from stockpot.inspect.printed import inspect

    inspect(paths, output, every, ties, as_json, allow_bin, threads)
