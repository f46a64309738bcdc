"""What stays beside a run in which training diverged."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stockpot import files
from stockpot.training.job import Diverged

DIVERGED = "diverged.txt"


def note_divergence(folder: Path, error: Diverged) -> None:
    """Records beside a run that training diverged: it would diverge again."""
    with suppress(OSError):
        files.write_text(folder / DIVERGED, str(error))
