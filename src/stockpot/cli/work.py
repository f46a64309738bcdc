"""What the commands that train and report do."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from stockpot.cli.console import say, show
from stockpot.cli.launched import refuse_launchers
from stockpot.errors import StockpotError
from stockpot.files import explained
from stockpot.quiet import quiet

if TYPE_CHECKING:
    from stockpot.runs.session import Opened
    from stockpot.training.job import Stop


@contextmanager
def stopping(go_on: str) -> Iterator[Stop]:
    """A first SIGTERM or Ctrl-C stops at the next step with a checkpoint; a second one stops at once."""
    from stockpot.training.job import Interrupted, Stop

    stop = Stop()
    received: list[int] = []
    before = {int(number): signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        stop.requested = True
        received.append(number)
        signal.signal(number, before[number])  # the next one is not caught

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    except Interrupted:
        say(f"\nStopped after a whole step; everything so far is saved. Go on with: {go_on}")
        sys.exit(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(path: Path, stop: Stop, allow_code: bool, opened: Opened | None = None) -> None:
    from stockpot.report.page import write_run_report
    from stockpot.report.sentences import run_summary
    from stockpot.report.tables import run_table
    from stockpot.runs.actions import go_on
    from stockpot.runs.folder import RunFolder
    from stockpot.runs.progress import shown

    with closing(shown()) as progress:
        results = go_on(path, allow_code=allow_code, stop=stop, progress=progress, opened=opened)
    RunFolder.open(path)  # still there: the report would make the folder anew
    with explained(path):
        page = write_run_report([(path.name, results)], path)
    show(run_table(results))
    for sentence in run_summary(results):
        say(sentence)
    for note in results.notes:
        say(f"Note: {note}.")
    say(f"Model:  {path / 'tasks'}{os.sep}{_last(path)}{os.sep}model")
    say(f"Report: {page}")


def _last(path: Path) -> str:
    from stockpot.runs.folder import RunFolder

    run = RunFolder.open(path)
    return run.place(len(run.finished) - 1)


def default_output(recipe_name: str | None) -> Path:
    """Where runs and comparisons go that are given no folder."""
    return Path("runs") / (recipe_name or "run")


def run(recipe_file: Path, overrides: Sequence[str], output: Path | None) -> None:
    """`stockpot run`."""
    refuse_launchers()
    quiet()
    from stockpot.recipe.read import read_recipe
    from stockpot.runs.actions import begin

    recipe = read_recipe(recipe_file, overrides)
    path = output or default_output(recipe.name)
    with stopping(f"stockpot resume {path}") as stop:
        opened = begin(recipe, recipe.method, recipe.seeds[0], path)
        if len(recipe.seeds) > 1:
            say(f"The recipe has {len(recipe.seeds)} seeds; `run` takes the first, {recipe.seeds[0]}.")
        _finish(path, stop, allow_code=True, opened=opened)


def add(folder: Path, task_file: Path, overrides: Sequence[str], output: Path | None, allow_code: bool) -> None:
    """`stockpot add`."""
    refuse_launchers()
    quiet()
    from stockpot.recipe.read import read_task
    from stockpot.runs.actions import add_task, branch

    task = read_task(task_file, overrides)
    target = output or folder
    with stopping(f"stockpot resume {target}") as stop:
        if output is not None:
            branch(folder, output)
        try:
            add_task(target, task, allow_code=allow_code)
        except StockpotError:
            if output is not None:  # the branch was made a moment ago, and nothing was learnt in it
                shutil.rmtree(output)
            raise
        _finish(target, stop, allow_code)


def resume(folder: Path, allow_code: bool) -> None:
    """`stockpot resume`."""
    refuse_launchers()
    quiet()
    from stockpot.runs.folder import RunFolder

    if (folder / "recipe.yaml").is_file() and (folder / "cells").is_dir():
        raise StockpotError(f"{folder}: this is a comparison; run its `stockpot compare` again, it goes on by itself.")
    if RunFolder.open(folder).is_finished:
        say("Every task is learnt already; writing the report again.")
    with stopping(f"stockpot resume {folder}") as stop:
        _finish(folder, stop, allow_code)


def report(folders: Sequence[Path], output: Path | None) -> None:
    """`stockpot report`."""
    refuse_launchers()
    from stockpot.compare.reread import reread, reread_run
    from stockpot.report.page import write_comparison_report, write_run_report

    doubts: list[str]
    if len(folders) == 1 and (folders[0] / "comparison.json").is_file():
        folder = folders[0]
        comparison, cells, doubts = reread(folder)
        with explained(output or folder):
            page = write_comparison_report(comparison, cells, output or folder, doubts)
        for doubt in doubts:
            say(f"Note: {doubt}")
        say(f"Report: {page}")
        return
    from stockpot.runs.folder import RunFolder

    results, doubts = [], []
    for folder in folders:
        run = RunFolder.open(folder)
        if not run.finished:
            raise StockpotError(f"{folder}: no task is learnt yet; go on with `stockpot resume {folder}`.")
        if not run.is_finished:
            say(
                f"{folder}: unfinished: {len(run.finished)} of {len(run.tasks)} tasks; "
                f"go on with `stockpot resume {folder}`."
            )
        found: list[str] = []
        made = reread_run(folder, found)
        results.append((folder.resolve().name, made.model_copy(update={"notes": [*made.notes, *found]})))
        doubts += found
    target = output or (folders[0] if len(folders) == 1 else Path("report"))
    with explained(target):
        page = write_run_report(results, target)
    for doubt in doubts:
        say(f"Note: {doubt}")
    say(f"Report: {page}")
