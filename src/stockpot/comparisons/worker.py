"""A process that runs cells: each line of stdin is a folder, and each line of stdout the answer, as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError
from stockpot.garbage import seldom_collect
from stockpot.training.job import Interrupted, Stop


def run_cell(folder: str, stop: Stop | None = None) -> dict[str, Any]:
    """Continues a run to its end. Returns `{}`, or what prevented it: `{"error": message}` or `{"stopped": True}`."""
    from stockpot.comparisons.divergence import note_divergence
    from stockpot.runs.actions import continue_run
    from stockpot.training.job import Diverged

    try:
        # The user typed the recipe that names the code to build the model.
        continue_run(Path(folder), allow_code=True, stop=stop)
    except Interrupted:
        return {"stopped": True}
    except Diverged as error:
        note_divergence(Path(folder), error)
    except StockpotError as error:
        return {"error": str(error)}
    return {}


def raise_error_of(answer: dict[str, Any]) -> None:
    """Raises StockpotError if a cell failed."""
    if "error" in answer:
        raise StockpotError(answer["error"])


def main() -> None:
    """Reads folders until stdin ends, which it also does when the parent dies; SIGTERM stops after the current step."""
    from stockpot.library_output import silence_libraries

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not an answer
    stop = Stop()

    def request_stop(number: int, frame: object) -> None:
        stop.requested = True
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, request_stop)
    seldom_collect()
    silence_libraries()
    for line in sys.stdin:
        answers.write(json.dumps(run_cell(json.loads(line), stop)) + "\n")
        if stop.requested:
            return


if __name__ == "__main__":
    main()
