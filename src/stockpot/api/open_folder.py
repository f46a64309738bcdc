"""`stockpot.open`: what lies in a folder, read again."""

from __future__ import annotations

import os
from pathlib import Path

from stockpot.api.comparison_result import ComparisonResult
from stockpot.api.run_result import RunResult
from stockpot.api.whatif_result import WhatIfResult
from stockpot.comparisons.reread import reread, reread_run
from stockpot.comparisons.whatif import FILE
from stockpot.errors import StockpotError
from stockpot.results import read_whatif
from stockpot.runs.folder import RunFolder


def open(folder: str | os.PathLike[str]) -> RunResult | ComparisonResult | WhatIfResult:
    """A run, a comparison or a what-if that is on disk; nothing is trained or written.

    Numbers are computed again from the runs' journals, whose lines have checksums; a file that does not agree with
    them is named in `notes`. Of an unfinished run the tasks learnt so far are there.

    Args:
        folder: of a run, a comparison or a what-if.

    Returns:
        What is in it, with its numbers.

    Raises:
        StockpotError: there is nothing of the kind, it was edited or damaged, or no task is learnt yet.
    """
    path = Path(folder)
    if (path / "comparison.json").is_file():
        return read_comparison_again(path)
    if (path / FILE).is_file():
        return WhatIfResult(path, read_whatif(path / FILE))
    return read_run(path)


def read_comparison_again(path: Path) -> ComparisonResult:
    """A comparison. Raises StockpotError for a run in it that is unfinished, or has changed since then."""
    comparison, cells, doubts = reread(path)
    return ComparisonResult(path, comparison, cells, doubts)


def read_run(path: Path) -> RunResult:
    """A run. Raises StockpotError where it is not one, was edited or damaged, or no task is learnt yet."""
    run = RunFolder.open(path)
    if not run.finished:
        raise StockpotError(f"{path}: no task is learnt yet; go on with `stockpot resume {path}`.")
    doubts: list[str] = []
    results = reread_run(path, doubts)
    return RunResult(path, results, doubts)


def unfinished(path: Path) -> str:
    """How far a run is and how it goes on; "" for a finished one."""
    run = RunFolder.open(path)
    if run.is_finished:
        return ""
    return f"{path}: unfinished: {len(run.finished)} of {len(run.tasks)} tasks; go on with `stockpot resume {path}`."
