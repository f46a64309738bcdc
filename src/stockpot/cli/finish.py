"""What `run`, `add` and `resume` end with: the report, and the numbers on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.cli.console import say, show

if TYPE_CHECKING:
    from stockpot.api.run_result import RunResult


def finish_run(done: RunResult) -> None:
    """Writes the report, and prints table, findings and where things are."""
    from stockpot.api.stopping import stopping_after_step
    from stockpot.report.findings import run_summary
    from stockpot.report.terminal import run_table

    with stopping_after_step(done.path, ""):  # a first signal has nothing left to stop
        page = done.report(again=True)
    show(run_table(done.results))
    for sentence in run_summary(done.results):
        say(sentence)
    for note in done.notes:
        say(f"Note: {note}.")
    say(f"Model:  {done.model_folder()}")
    say(f"Report: {page}")
