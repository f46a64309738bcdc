"""Running the cells of a comparison: one after the other in this process, by an engine, or one shard of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from stockpot import files
from stockpot.comparisons.cells import CellPlan, check_cells, is_finished, is_started, recipe_of
from stockpot.comparisons.divergence import DIVERGED, note_divergence
from stockpot.comparisons.engines import CellEngine
from stockpot.errors import StockpotError
from stockpot.recipe.resolve import resolve
from stockpot.recipe.schema import Recipe
from stockpot.results import Results
from stockpot.runs.actions import continue_run, create_run
from stockpot.runs.folder import RunFolder
from stockpot.runs.progress import Progress
from stockpot.runs.results_json import results_of
from stockpot.runs.start_checks import check_start
from stockpot.streams.stream import Stream
from stockpot.training.job import Diverged, Stop


class ShardDone(Exception):  # noqa: N818 - what happened, not an error
    """This shard's cells are finished, but those of other shards are not, so there is no comparison yet."""


DoneCell = tuple[CellPlan, Results | None]  # None: training diverged


@dataclass
class CellRunner:
    """Runs the cells of a comparison in its folder; finished cells are only read."""

    recipe: Recipe
    path: Path
    stop: Stop
    progress: Progress
    engine: CellEngine | None = None  # None: in this process
    shard: tuple[int, int] = (1, 1)  # number, count
    opened: dict[tuple[int, bool], Stream] = field(default_factory=dict)  # by order and split; only the newest is kept

    def run(self, cells: Sequence[CellPlan]) -> list[DoneCell]:
        """Runs the unfinished cells of this shard; returns every cell with its results, in the order given.

        Raises StockpotError if a reported cell diverged, ShardDone if cells of other shards are missing, and
        Interrupted if `stop` was requested.
        """
        check_cells(self.recipe, self.path, cells)
        with files.explaining_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        number, count = self.shard
        shard = cells[number - 1 :: count]
        waiting: list[CellPlan] = []
        finished: list[DoneCell] = []
        for cell in shard:
            if self._is_done(cell):
                finished.append((cell, self._read(cell)))
            else:
                waiting.append(cell)
        for cell, results in chain(finished, self._done(waiting)):
            self.progress.cell(cell.progress_name, None if results is None else results.metrics.average_accuracy)
        missing = [cell for cell in cells if not self._is_done(cell)]
        if missing:
            raise ShardDone(
                f"Shard {number}/{count} is done: {len(cells) - len(missing)} of {len(cells)} cells of this stage are "
                "finished. When the other shards are done, run the command again."
            )
        return [(cell, self._read(cell)) for cell in cells]

    def _done(self, cells: Sequence[CellPlan]) -> Iterator[DoneCell]:
        if self.engine is None:
            for cell in cells:
                yield cell, self._run_here(cell)
            return
        by_folder = {self.path / cell.path: cell for cell in cells}
        for folder in self.engine(self._started(cells), self.stop):
            cell = by_folder[folder]
            yield cell, self._read(cell)

    def _started(self, cells: Sequence[CellPlan]) -> Iterator[Path]:
        for cell in cells:
            self._start(cell)
            yield self.path / cell.path

    def _start(self, cell: CellPlan) -> Stream:
        if not self.path.is_dir():  # the next cell would create it again
            raise StockpotError(f"{self.path}: the comparison's folder was removed or moved while it was running.")
        changed = recipe_of(self.recipe, cell)
        key = (cell.order, cell.tuning)
        if key not in self.opened:
            self.opened.clear()
            self.opened[key] = check_start(resolve(changed, cell.method, cell.seed))
        if not is_started(self.path / cell.path):
            create_run(changed, cell.method, cell.seed, self.path / cell.path, self.opened[key])
        return self.opened[key]

    def _run_here(self, cell: CellPlan) -> Results | None:
        opened = self._start(cell)
        try:
            # The user typed the recipe that names the code to build the model.
            return continue_run(
                self.path / cell.path, allow_code=True, stop=self.stop, progress=self.progress, opened=opened
            )
        except Diverged as error:
            note_divergence(self.path / cell.path, error)
            if not cell.tuning:
                raise
            return None

    def _is_done(self, cell: CellPlan) -> bool:
        folder = self.path / cell.path
        return is_finished(folder) or (cell.tuning and (folder / DIVERGED).is_file())

    def _read(self, cell: CellPlan) -> Results | None:
        folder = self.path / cell.path
        if is_finished(folder):
            return results_of(RunFolder.open(folder))
        if not cell.tuning:
            with files.explaining_disk_errors(folder):
                raise StockpotError(f"{folder}: {(folder / DIVERGED).read_text(encoding='utf-8')}")
        return None
