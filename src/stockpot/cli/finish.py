"""What `run`, `add` and `resume` end with: the remaining tasks, the report, the numbers on the terminal."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.cli.console import say, show
from stockpot.files import explaining_disk_errors

if TYPE_CHECKING:
    from stockpot.streams.stream import Stream
    from stockpot.training.job import Stop


def finish_run(path: Path, stop: Stop, allow_code: bool, opened: Stream | None = None) -> None:
    """Learns the tasks that are left, writes the report, and prints table, findings and where things are."""
    from stockpot.report.findings import run_summary
    from stockpot.report.run_page import write_run_report
    from stockpot.report.terminal import run_table
    from stockpot.runs.actions import continue_run
    from stockpot.runs.folder import RunFolder
    from stockpot.runs.progress import terminal_progress

    with closing(terminal_progress()) as progress:
        results = continue_run(path, allow_code=allow_code, stop=stop, progress=progress, opened=opened)
    run = RunFolder.open(path)  # raises if it is gone: writing the report would make the folder anew
    with explaining_disk_errors(path):
        page = write_run_report([(path.name, results)], path)
    show(run_table(results))
    for sentence in run_summary(results):
        say(sentence)
    for note in results.notes:
        say(f"Note: {note}.")
    say(f"Model:  {path / 'tasks'}{os.sep}{run.place(len(run.finished) - 1)}{os.sep}model")
    say(f"Report: {page}")
