"""What `stockpot whatif` does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.cli.console import note, say, show
from stockpot.cli.launched import refuse_launchers
from stockpot.errors import StockpotError
from stockpot.files import explained, make_folder, write_json
from stockpot.quiet import quiet

if TYPE_CHECKING:
    from stockpot.results import WhatIf
    from stockpot.runs.session import Session

_OTHERS = ("journal.jsonl", "comparison.json")


def whatif(
    folder: Path, methods: str | None, points: int, output: Path | None, threads: int | None, allow_code: bool
) -> None:
    """Merges and evaluates a run's checkpoints; writes whatif.json and report.html."""
    refuse_launchers()
    quiet()
    import torch

    from stockpot.compare.whatif import FILE, OPTIMISTIC, SWEPT, known_methods, reading
    from stockpot.report.whatif import write_whatif_report
    from stockpot.report.whatif_words import findings, whatif_table

    names = list(SWEPT) if methods is None else known_methods([name.strip() for name in methods.split(",") if name])
    target = output or folder / "whatif"
    for other in _OTHERS:
        if (target / other).exists():
            raise StockpotError(f"{target}: a run or a comparison is here; choose another folder with -o.")
    if threads is not None:
        torch.set_num_threads(threads)
    with reading(folder, allow_code=allow_code) as session, explained(target):
        make_folder(target)  # that it cannot be written is told before the work, not after it
        found = _swept(session, names, points)
    with explained(target):
        write_json(target / FILE, found.model_dump(mode="json"))
        page = write_whatif_report(found, target)
    show(whatif_table(found))
    for sentence in findings(found):
        say(sentence)
    for warning in sorted(found.notes, key=OPTIMISTIC.__eq__):  # last, where it is read
        say(f"Note: {warning}")
    say(f"Numbers: {target / FILE}")
    say(f"Report:  {page}")


def _swept(session: Session, names: list[str], points: int) -> WhatIf:
    from tqdm import tqdm

    from stockpot.compare.whatif import evaluations, sweep
    from stockpot.report.formatting import opening

    total = evaluations(names, points, session)
    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit=" evaluations", dynamic_ncols=True, disable=not terminal) as bar:

        def seen(name: str) -> None:
            bar.set_description(opening(name), refresh=False)
            bar.update()

        if not terminal:
            note(f"{total} merged models to evaluate")
        return sweep(session, names, points, seen)
