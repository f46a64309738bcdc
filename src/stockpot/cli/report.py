"""`stockpot report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stockpot.api.launchers import refuse_launchers
from stockpot.cli.console import say
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
    from stockpot.api.opening import read_comparison_again

    comparison = read_comparison_again(folder)
    return comparison.report(target, again=True), list(comparison.doubts)


def _run_report(folders: Sequence[Path], target: Path) -> tuple[Path, list[str]]:
    from stockpot.api.opening import read_run, unfinished
    from stockpot.report.run_page import write_run_report

    runs = []
    for folder in folders:
        runs.append(read_run(folder))
        if hint := unfinished(folder):
            say(hint)
    with explaining_disk_errors(target):
        page = write_run_report([run.page_entry for run in runs], target)
    return page, [doubt for run in runs for doubt in run.doubts]
