"""Results read again for a report, from the runs' journals, whose lines have checksums.

comparison.json lists the runs of a comparison, and results.json repeats a journal. Either may have been edited, or be
older than its run; what disagrees is reported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from stockpot.comparisons.front import point_of
from stockpot.comparisons.summary import recompared
from stockpot.errors import StockpotError
from stockpot.evaluation.method_summaries import FinishedRun
from stockpot.evaluation.statistics import COST_NAMES, METRIC_NAMES
from stockpot.results import Comparison, FrontPoint, Results, read_comparison, read_results
from stockpot.runs.folder import RunFolder
from stockpot.runs.results_json import results_of

REPEATED = ("label", "seed", "tasks", "primary", "scores", "metrics", "costs", "task_costs")


class Reread(NamedTuple):
    """A comparison computed again, its runs by label, and what a reader must know of the files."""

    comparison: Comparison
    cells: dict[str, list[Results]]
    doubts: list[str]


def reread(folder: Path) -> Reread:
    """The comparison in `folder`. Raises StockpotError for a run that is unfinished, or has changed since then."""
    recorded = read_comparison(folder / "comparison.json")
    doubts: list[str] = []
    unknown = 0
    runs: dict[str, list[FinishedRun]] = {}
    for label, summary in recorded.methods.items():
        for cell in summary.cells:
            results = _cell(folder, cell.run, cell.digest, doubts)
            unknown += cell.digest is None
            runs.setdefault(label, []).append(FinishedRun(cell.seed, cell.run, results, cell.order, cell.digest))
    if unknown:
        doubts.append(
            f"comparison.json has no digests of {unknown} runs, since an earlier version wrote it: whether they have "
            "changed since then cannot be checked."
        )
    front = [_point(folder, point, doubts) for point in recorded.front]
    comparison = recompared(recorded, runs, front)
    if _differ(recorded, comparison):
        doubts.append(
            "comparison.json does not agree with the runs: it was edited, or written by another version. The report "
            "shows the runs; `stockpot compare` writes the file again."
        )
    return Reread(comparison, {label: [run.results for run in some] for label, some in runs.items()}, doubts)


def reread_run(path: Path, doubts: list[str]) -> Results:
    """The results of a run from its journal; a results.json that does not agree is added to `doubts`."""
    if not (path / "journal.jsonl").is_file():
        doubts.append(f"{path}: no journal, so its results.json cannot be checked.")
        return read_results(path / "results.json")
    run = RunFolder.open(path)
    results = results_of(run)
    if not _repeats(path / "results.json", results):
        doubts.append(
            f"{path / 'results.json'} does not agree with the run's journal: it was changed, or the journal was cut. "
            "The report shows the journal."
        )
    return results


def _cell(folder: Path, place: str, digest: str | None, doubts: list[str]) -> Results:
    path = folder / place
    if (path / "journal.jsonl").is_file():
        run = RunFolder.open(path)
        if not run.is_finished:
            raise StockpotError(
                f"{path}: unfinished: {len(run.finished)} of {len(run.tasks)} tasks; run `stockpot compare` again."
            )
        if digest is not None and digest != run.journal.digest:
            raise StockpotError(
                f"{path}: the run has changed since comparison.json was written; run `stockpot compare` again."
            )
    return reread_run(path, doubts)


def _point(folder: Path, point: FrontPoint, doubts: list[str]) -> FrontPoint:
    """A point of the front from its runs; as recorded if these are gone."""
    if not all((folder / cell.run / "journal.jsonl").is_file() for cell in point.cells):
        return point
    results: dict[tuple[int, int], Results | None] = {
        (cell.order, cell.seed): _cell(folder, cell.run, cell.digest, doubts) for cell in point.cells
    }
    return point_of(point.method, point.key, point.value, point.cells, results)


def _repeats(file: Path, results: Results) -> bool:
    """Whether a results.json agrees with the journal, apart from keys that an older version did not have."""
    if not file.is_file():
        return True
    try:
        recorded: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    made = results.model_dump(mode="json")
    return isinstance(recorded, dict) and all(_within(recorded.get(key), made[key]) for key in REPEATED)


def _within(recorded: Any, made: Any) -> bool:
    if isinstance(recorded, dict) and isinstance(made, dict):
        return all(key in made and _within(value, made[key]) for key, value in recorded.items())
    if isinstance(recorded, list) and isinstance(made, list):
        return len(recorded) == len(made) and all(map(_within, recorded, made))
    return bool(recorded == made)


def _differ(recorded: Comparison, made: Comparison) -> bool:
    """Whether an estimate, a verdict or a point of the front differs."""

    def summary_of(comparison: Comparison) -> list[Any]:
        values: list[Any] = list(comparison.methods)
        for summary in comparison.methods.values():
            values += [getattr(summary, name).mean for name in (*METRIC_NAMES, *COST_NAMES) if name in known]
            values += [difference.verdict for name, difference in summary.versus_sequential.items() if name in known]
        return values + [point.past_accuracy.mean for point in comparison.front]

    first = next(iter(recorded.methods.values()))
    known = {name for name in (*METRIC_NAMES, *COST_NAMES) if getattr(first, name).values}
    return summary_of(recorded) != summary_of(made)
