"""`stockpot whatif`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.arguments import AllowCode, RunArgument, RunCode, RunCodeUnsandboxed
from stockpot.cli.console import note, say, show
from stockpot.cli.preparation import prepare_command
from stockpot.errors import StockpotError
from stockpot.files import explaining_disk_errors, make_folder, write_json

if TYPE_CHECKING:
    from stockpot.results import WhatIf
    from stockpot.runs.session import Session

_FILES_OF_OTHERS = ("journal.jsonl", "comparison.json")


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
) -> None:
    """Evaluate every merge of a finished `sequential` run's checkpoints, at every strength; trains nothing."""
    prepare_command(run_code, run_code_unsandboxed)
    import torch

    from stockpot.comparisons.whatif import FILE, OPTIMISTIC, known_methods, reading, swept
    from stockpot.report.terminal import whatif_table
    from stockpot.report.whatif_page import write_whatif_report

    names = list(swept()) if methods is None else known_methods([name.strip() for name in methods.split(",") if name])
    target = output or folder / "whatif"
    if any((target / name).exists() for name in _FILES_OF_OTHERS):
        raise StockpotError(f"{target}: a run or a comparison is here; choose another folder with -o.")
    if threads is not None:
        torch.set_num_threads(threads)
    with reading(folder, allow_code=allow_code) as session, explaining_disk_errors(target):
        make_folder(target)  # fails before the work, not after it
        whatif = _sweep(session, names, points)
    with explaining_disk_errors(target):
        write_json(target / FILE, whatif.model_dump(mode="json"))
        page = write_whatif_report(whatif, target)
    show(whatif_table(whatif))
    for warning in sorted(whatif.notes, key=OPTIMISTIC.__eq__):  # the most important one last, where it is read
        say(f"Note: {warning}")
    say(f"Numbers: {target / FILE}")
    say(f"Report:  {page}")


def _sweep(session: Session, names: list[str], points: int) -> WhatIf:
    from tqdm import tqdm

    from stockpot.comparisons.whatif import evaluations, sweep
    from stockpot.report.formatting import opening

    total = evaluations(names, points, session)
    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit=" evaluations", dynamic_ncols=True, disable=not terminal) as bar:

        def on_progress(name: str) -> None:
            bar.set_description(opening(name), refresh=False)
            bar.update()

        if not terminal:
            note(f"{total} merged models to evaluate")
        return sweep(session, names, points, on_progress)
