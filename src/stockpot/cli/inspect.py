"""`stockpot inspect`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.arguments import Threads
from stockpot.cli.console import say, show
from stockpot.errors import StockpotError
from stockpot.printing import escape_controls

if TYPE_CHECKING:
    pass


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
    if ties and len(paths) > 1:
        raise StockpotError("--ties looks for equal tensors within one checkpoint: name one path.")
    if output is not None and len(paths) != 2:
        raise StockpotError(f"-o draws how two checkpoints differ: name two paths, not {len(paths)}.")
    pictures = [] if output is None else _pictures(output)
    from stockpot.inspect.differences import compare_checkpoints
    from stockpot.inspect.facts import facts_of, open_tensors
    from stockpot.inspect.listing import comparison_report, facts_report, totals_report
    from stockpot.inspect.tied_tensors import find_tied_tensors
    from stockpot.merging.options import Options
    from stockpot.merging.read.inputs import located

    with contextlib.ExitStack() as stack:
        sources, facts = [], []
        for path in paths:
            place = located(path)
            sources.append(stack.enter_context(contextlib.closing(open_tensors(place, path, allow_bin))))
            facts.append(facts_of(place, sources[-1]))
        comparisons = compare_checkpoints(*sources, threads=Options(threads=threads).thread_count)
        tied = find_tied_tensors(sources[0]) if ties else None
    if as_json:
        tie_facts = {} if tied is None else {"ties": tied.groups, "constant": tied.constant}
        checkpoints = [asdict(each) | tie_facts for each in facts]
        values = {"checkpoints": checkpoints, "comparisons": [each.as_json() for each in comparisons]}
        say(json.dumps(values, indent=2, allow_nan=False))
    elif not comparisons:
        _print(facts_report(facts[0], every, tied))
    elif len(comparisons) == 1:
        _print(comparison_report(comparisons[0], every))
        if output is None:
            say("--all lists every tensor; -o difference.png draws distance and cosine by depth.")
    else:
        _print(totals_report(comparisons))
    if pictures:
        from stockpot.inspect.picture import save_picture

        save_picture(comparisons[0], *pictures)
        for file in pictures if not as_json else ():
            say(f"Picture: {file}")


def _pictures(output: Path) -> list[Path]:
    """The files that `-o` names: itself, or in a folder a PNG and an SVG."""
    if output.suffix in (".png", ".svg") and not output.is_dir():
        if not output.parent.is_dir():
            raise StockpotError(f"{output.parent}: there is no such folder.")
        return [output]
    if output.exists() and not output.is_dir():
        raise StockpotError(f"{output} is not a folder; name one, or a file that ends in .png or .svg.")
    if not output.exists() and output.suffix:
        raise StockpotError(f"{output}: a picture's name ends in .png or .svg; or name a folder.")
    return [output / "difference.png", output / "difference.svg"]


def _print(parts: Iterator[object]) -> None:
    for part in parts:  # names come from files of others: nothing in them may steer the terminal, or break a line
        if isinstance(part, str):
            say(escape_controls(part, lines=False))
        else:
            show(part)
