"""The page of a result, written where it is missing or older than the numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from stockpot.files import explaining_disk_errors

PAGE = "report.html"


def written_page(
    path: Path, folder: str | os.PathLike[str] | None, numbers: str, write: Callable[[Path], object], again: bool
) -> Path:
    """The page in `folder`, by default `path`; written with `again`, or if it is missing or older than the numbers."""
    target = path if folder is None else Path(folder)
    page, shown = target / PAGE, path / numbers
    if again or not page.is_file() or page.stat().st_mtime_ns < shown.stat().st_mtime_ns:
        with explaining_disk_errors(target):
            write(target)
    return page
