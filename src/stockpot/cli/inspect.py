"""`stockpot inspect`."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.arguments import Threads
from stockpot.cli.console import say
from stockpot.errors import StockpotError
from stockpot.printing import escape_controls


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
    from stockpot.inspect.facts import open_with_facts
    from stockpot.inspect.listing import comparison_report, facts_report
    from stockpot.inspect.tied_tensors import find_tied_tensors
    from stockpot.merging.options import Options

    with contextlib.ExitStack() as stack:
        sources, facts = [], []
        for path in paths:
            source, its_facts = open_with_facts(path, allow_bin)
            stack.callback(source.close)
            sources.append(source)
            facts.append(its_facts)
        comparisons = compare_checkpoints(*sources, threads=Options(threads=threads).thread_count)
        tied = find_tied_tensors(sources[0]) if ties else None
    if as_json:
        checkpoints = [asdict(each) | (tied._asdict() if tied else {}) for each in facts]
        values = {"checkpoints": checkpoints, "comparisons": [each.as_json() for each in comparisons]}
        say(json.dumps(values, indent=2, allow_nan=False))
    else:
        report = comparison_report(comparisons, every) if comparisons else facts_report(facts[0], every, tied)
        for line in report:  # names come from files of others: nothing in them may steer the terminal, or break a line
            say(escape_controls(line, lines=False))
    if pictures:
        from stockpot.inspect.picture import difference_figure
        from stockpot.report.rendering import save_figure

        save_figure(difference_figure(comparisons[0]), *pictures)
        for file in pictures if not as_json else ():
            say(f"Picture: {file}")


def _pictures(output: Path) -> list[Path]:
    """The files that `-o` names: itself, or in a folder a PNG and an SVG."""
    if output.is_dir() or not (output.suffix or output.exists()):
        return [output / "difference.png", output / "difference.svg"]
    if output.suffix not in (".png", ".svg"):
        raise StockpotError(f"{output} is not a folder; name one, or a file that ends in .png or .svg.")
    if not output.parent.is_dir():
        raise StockpotError(f"{output.parent}: there is no such folder.")
    return [output]
