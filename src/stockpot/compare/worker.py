"""A process that runs cells: a line with a folder on stdin, a line of JSON on stdout when it is finished."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError
from stockpot.training.job import Interrupted, Stop


def run_cell(folder: str, stop: Stop | None = None) -> dict[str, Any]:
    """Goes on with a run to its end: `{}`, or what kept it from that: `error`, or `stopped`."""
    from stockpot.compare.divergence import note_divergence
    from stockpot.runs.actions import continue_run
    from stockpot.training.job import Diverged

    try:
        # The comparison's recipe, which the user typed, names the code to build the model.
        continue_run(Path(folder), allow_code=True, stop=stop)
    except Interrupted:
        return {"stopped": True}
    except Diverged as error:
        note_divergence(Path(folder), error)
    except StockpotError as error:
        return {"error": str(error)}
    return {}


def raise_error_of(answer: dict[str, Any]) -> None:
    """Raises StockpotError for a cell that failed."""
    if "error" in answer:
        raise StockpotError(answer["error"])


def main() -> None:
    """Reads folders until stdin ends; one SIGTERM stops after the step, with a checkpoint."""
    from stockpot.library_output import silence_libraries

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    stop = Stop()

    def asked(number: int, frame: object) -> None:
        stop.requested = True
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, asked)
    silence_libraries()
    for line in sys.stdin:
        answers.write(json.dumps(run_cell(json.loads(line), stop)) + "\n")
        if stop.requested:
            return


if __name__ == "__main__":
    main()
