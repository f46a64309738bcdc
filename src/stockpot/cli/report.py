"""`stockpot report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.console import say
from stockpot.cli.launchers import refuse_launchers
from stockpot.errors import StockpotError
from stockpot.files import explaining_disk_errors


def report_command(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, or the folder of a comparison")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="default: the folder")] = None,
) -> None:
    """Write report.html and its figures again, for one run, several runs, or a comparison."""
    refuse_launchers()
    if len(folders) == 1 and (folders[0] / "comparison.json").is_file():
        page, doubts = _comparison_report(folders[0], output or folders[0])
    else:
        page, doubts = _run_report(folders, output or (folders[0] if len(folders) == 1 else Path("report")))
    for doubt in doubts:
        say(f"Note: {doubt}")
    say(f"Report: {page}")


def _comparison_report(folder: Path, target: Path) -> tuple[Path, list[str]]:
    from stockpot.comparisons.reread import reread
    from stockpot.report.comparison_page import write_comparison_report

    comparison, cells, doubts = reread(folder)
    with explaining_disk_errors(target):
        return write_comparison_report(comparison, cells, target, doubts), doubts


def _run_report(folders: Sequence[Path], target: Path) -> tuple[Path, list[str]]:
    from stockpot.comparisons.reread import reread_run
    from stockpot.report.run_page import write_run_report
    from stockpot.runs.folder import RunFolder

    results, doubts = [], []
    for folder in folders:
        run = RunFolder.open(folder)
        if not run.finished:
            raise StockpotError(f"{folder}: no task is learnt yet; go on with `stockpot resume {folder}`.")
        if not run.is_finished:
            say(
                f"{folder}: unfinished: {len(run.finished)} of {len(run.tasks)} tasks; "
                f"go on with `stockpot resume {folder}`."
            )
        own_doubts: list[str] = []
        reread = reread_run(folder, own_doubts)
        results.append((folder.resolve().name, reread.model_copy(update={"notes": [*reread.notes, *own_doubts]})))
        doubts += own_doubts
    with explaining_disk_errors(target):
        return write_run_report(results, target), doubts
