"""`stockpot.whatif`: merges of the checkpoints that a plain run left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.api.preparation import prepared
from stockpot.api.recipe_like import method_names
from stockpot.api.run_result import RunResult
from stockpot.api.single_run import folder_of
from stockpot.api.whatif_result import WhatIfResult
from stockpot.comparisons.whatif import FILE, evaluations, known_methods, reading, sweep, swept
from stockpot.errors import StockpotError
from stockpot.files import explaining_disk_errors, make_folder, write_json
from stockpot.report.formatting import opening
from stockpot.runs.progress import write_line
from stockpot.spelling import option
from stockpot.streams.passed_data import pass_again

if TYPE_CHECKING:
    from stockpot.methods.base import Method
    from stockpot.results import WhatIf
    from stockpot.runs.session import Session

FEWEST_POINTS, MOST_POINTS = 2, 1001
_FILES_OF_OTHERS = ("journal.jsonl", "comparison.json")


def whatif(
    run: RunResult | str | os.PathLike[str],
    *,
    methods: Sequence[str | type[Method[Any]]] | None = None,
    points: int = 11,
    output: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    data: Any = None,
    allow_code: bool = False,
    run_code: bool = False,
    run_code_unsandboxed: bool = False,
    progress: bool = True,
) -> WhatIfResult:
    """Evaluates every merge of a finished `sequential` run's checkpoints, at every strength; trains nothing.

    An interrupt stops it at once, as in any Python: there is nothing to save, and the run is only read.

    Args:
        run: the run, or its folder.
        methods: names or classes of methods; default: every one of Stockpot's that merges after training.
        points: the number of values of each method's strength.
        output: where whatif.json is written; default: RUN/whatif.
        threads: of torch while it works; default: as they are set.
        data: what was passed in Python when the run was made, as in `stockpot.resume`.
        allow_code: whether the model may be built by code that the run folder names.
        run_code: agree to run the programs that a model writes, in a sandbox (metric pass@k).
        run_code_unsandboxed: agree to run them even without a sandbox: they can then do what you can do here.
        progress: a bar or a line on stderr.

    Returns:
        The sweeps, with their numbers.

    Raises:
        StockpotError: the run's checkpoints cannot show what other methods would have done, or a method needs training.
    """
    with prepared(run_code, run_code_unsandboxed):
        if data is not None:
            pass_again(data)
        chosen = method_names(methods)
        if not FEWEST_POINTS <= points <= MOST_POINTS:
            raise StockpotError(f"points: {points} is not a number from {FEWEST_POINTS} to {MOST_POINTS}.")
        names = list(swept()) if chosen is None else known_methods(chosen)
        folder = folder_of(run)
        target = folder / "whatif" if output is None else Path(output)
        if any((target / name).exists() for name in _FILES_OF_OTHERS):
            raise StockpotError(
                f"{target}: a run or a comparison is here; choose another folder with {option('output')}."
            )
        with (
            _threads(threads),
            reading(folder, allow_code=allow_code) as session,
            explaining_disk_errors(target),
        ):
            make_folder(target)  # fails before the work, not after it
            made = _swept(session, names, points, progress)
        with explaining_disk_errors(target):
            write_json(target / FILE, made.model_dump(mode="json"))
        return WhatIfResult(target, made)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _swept(session: Session, names: list[str], points: int, progress: bool) -> WhatIf:
    from tqdm import tqdm

    total = evaluations(names, points, session)
    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit=" evaluations", dynamic_ncols=True, disable=not (terminal and progress)) as bar:

        def on_progress(name: str) -> None:
            bar.set_description(opening(name), refresh=False)
            bar.update()

        if progress and not terminal:
            write_line(f"{total} merged models to evaluate")
        return sweep(session, names, points, on_progress)
