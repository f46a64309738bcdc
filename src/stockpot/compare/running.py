"""Running the cells of a comparison: here one after the other, in processes, on a cluster, or a share of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from stockpot import files
from stockpot.compare.cells import CellPlan, check_cells, is_finished, is_started, recipe_of
from stockpot.compare.divergence import DIVERGED, note_divergence
from stockpot.compare.engines import CellEngine
from stockpot.errors import StockpotError
from stockpot.recipe.resolve import resolve
from stockpot.recipe.schema import Recipe
from stockpot.results import Results
from stockpot.runs.actions import check_start, continue_run, create_run
from stockpot.runs.folder import RunFolder
from stockpot.runs.progress import Progress
from stockpot.runs.results_json import results_of
from stockpot.streams.stream import Stream
from stockpot.training.job import Diverged, Stop


class ShareDone(Exception):  # noqa: N818 - what happened, not an error
    """This shard's cells are finished, and those of other shards are missing: a comparison has nothing to say yet."""


Done = tuple[CellPlan, Results | None]  # no results: training diverged


@dataclass
class Running:
    """A comparison's folder, and how its cells are run. A finished cell is only read."""

    recipe: Recipe
    path: Path
    stop: Stop
    progress: Progress
    engine: CellEngine | None = None  # None: in this process
    shard: tuple[int, int] = (1, 1)  # number, of how many
    opened: dict[tuple[int, bool], Stream] = field(default_factory=dict)  # by order and split: the newest alone

    def run(self, cells: Sequence[CellPlan]) -> list[Done]:
        """Runs what is not finished of this shard's cells; every cell with its results, in the order given.

        Raises StockpotError where a cell that is to be reported diverged, ShareDone where the cells of other shards
        are missing, and Interrupted where it was asked to stop.
        """
        check_cells(self.recipe, self.path, cells)
        with files.explaining_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        number, count = self.shard
        own = cells[number - 1 :: count]
        waiting: list[CellPlan] = []
        finished: list[Done] = []
        for cell in own:
            if self._is_done(cell):
                finished.append((cell, self._read(cell)))
            else:
                waiting.append(cell)
        for cell, results in chain(finished, self._done(waiting)):
            self.progress.cell(cell.told, None if results is None else results.metrics.average_accuracy)
        missing = [cell for cell in cells if not self._is_done(cell)]
        if missing:
            raise ShareDone(
                f"Shard {number}/{count} is done: {len(cells) - len(missing)} of {len(cells)} cells of this stage are "
                "finished. When the other shards are done, run this again."
            )
        return [(cell, self._read(cell)) for cell in cells]

    def _done(self, cells: Sequence[CellPlan]) -> Iterator[Done]:
        if self.engine is None:
            for cell in cells:
                yield cell, self._run_here(cell)
            return
        by_folder = {self.path / cell.path: cell for cell in cells}
        for folder in self.engine(self._begun(cells), self.stop):
            cell = by_folder[folder]
            yield cell, self._read(cell)

    def _begun(self, cells: Sequence[CellPlan]) -> Iterator[Path]:
        for cell in cells:
            self._begin(cell)
            yield self.path / cell.path

    def _begin(self, cell: CellPlan) -> Stream:
        if not self.path.is_dir():  # the next cell would make it anew
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
        opened = self._begin(cell)
        try:
            # The recipe that the user typed names the code to build the model: running it is what was asked for.
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
