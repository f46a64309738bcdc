"""What the calls return for a what-if: its folder, and the numbers in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.api import frames, notebook
from stockpot.api.pages import written_page
from stockpot.errors import StockpotError
from stockpot.results import WhatIf

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class WhatIfResult:
    """The folder of a sweep over a run's checkpoints at `path`, and its `results`, as in whatif.json.

    It has no costs and no models: nothing was trained, and merged models are not kept.
    """

    path: Path
    results: WhatIf

    def matrix(self, method: str, value: float | None = None, *, start: bool = False) -> pd.DataFrame:
        """The primary score on every task (columns) after merging each task (rows).

        Args:
            method: its name.
            value: its strength, one of those in `metrics`; default: the best.
            start: with a first row `start`, before anything was learnt.

        Raises:
            StockpotError: there is no such method or value.
        """
        points = frames.named("method", method, self.results.methods, method)
        point = points.points[points.best]
        if value is not None:
            known = {point.value: point for point in points.points}
            if value not in known:
                tried = ", ".join(str(other) for other in known)
                raise StockpotError(f"{method} was not tried at {value:g}. Known: {tried}.")
            point = known[value]
        return frames.matrix_frame(point.scores, self.results.tasks, start)

    @property
    def metrics(self) -> pd.DataFrame:
        """(method, value) by metric, with `exact`: whether a real run gives the scores after the last task."""
        return frames.sweeps_frame(self.results.methods)

    @property
    def notes(self) -> list[str]:
        """What a reader must know: what is exact, and on which data values were chosen."""
        return list(self.results.notes)

    def report(self, folder: str | os.PathLike[str] | None = None, *, again: bool = False) -> Path:
        """The path of the page, written if it is missing or older than the sweep.

        Args:
            folder: where it is written; default: the folder of the numbers.
            again: write it in any case.

        Raises:
            StockpotError: it could not be written.
        """
        from stockpot.report.whatif_page import write_whatif_report

        def write(target: Path) -> None:
            write_whatif_report(self.results, target)

        return written_page(self.path, folder, "whatif.json", write, again)

    def _repr_html_(self) -> str:
        return notebook.whatif_html(self.results, str(self.path))

    def __repr__(self) -> str:
        return f"<what if {self.results.run!r}: {', '.join(self.results.methods)}>"
