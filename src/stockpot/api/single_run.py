"""`stockpot.run`, `stockpot.add` and `stockpot.resume`: one method on a stream of tasks, in a run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.api.preparation import prepared
from stockpot.api.recipe_like import as_recipe, as_task, default_folder, explaining, recognised, with_data
from stockpot.api.run_result import RunResult
from stockpot.api.stopping import stopping_after_step
from stockpot.errors import StockpotError
from stockpot.runs.actions import add_task, branch, continue_run, create_run
from stockpot.runs.folder import RunFolder
from stockpot.runs.progress import Progress, terminal_progress, write_line
from stockpot.streams.passed_data import pass_again

if TYPE_CHECKING:
    from stockpot.api.recipe_like import RecipeLike, TaskLike
    from stockpot.streams.stream import Stream


def run(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    output: str | os.PathLike[str] | None = None,
    data: Any = None,
    run_code: bool = False,
    run_code_unsandboxed: bool = False,
    progress: bool = True,
) -> RunResult:
    """Fine-tunes on the recipe's stream of tasks with one method; leaves a run folder, as `stockpot run` does.

    Of several `seeds` the first is used. Ctrl-C, or "interrupt" in a notebook, stops after the current step and writes
    a checkpoint, from which `stockpot.resume` goes on to the same bits; a second one stops at once. So does SIGTERM.
    The page is written by `.report()`.

    Args:
        recipe: the path of a recipe, a dict of what would be in it, or a Recipe. Code that it names is imported.
        overrides: `key.sub=value` each, values in YAML.
        output: the run folder, which must be free; default: runs/NAME.
        data: in place of the recipe's `data.path`: a `datasets.Dataset`, a `DatasetDict`, a PyTorch map-style `Dataset`
            of (image or tensor, label), or a dict of its parts; or a dict of such by name of a task. They may also
            stand in the recipe, where it says `data`. To resume in another process, pass the same data again.
        run_code: agree to run the programs that a model writes, in a sandbox (metric pass@k).
        run_code_unsandboxed: agree to run them even without a sandbox: they can then do what you can do here.
        progress: bars or lines on stderr.

    Returns:
        The run, with its numbers.

    Raises:
        StockpotError: for a mistake in the recipe, its data or the folder, before anything is trained where possible.
        Stopped: a KeyboardInterrupt, when it was asked to stop.
    """
    with prepared(run_code, run_code_unsandboxed):
        checked, guesses = recognised(with_data(as_recipe(recipe, overrides), data))
        path = default_folder(checked) if output is None else Path(output)

        def begin() -> Stream:
            with explaining(guesses):
                opened = create_run(checked, checked.method, checked.seeds[0], path)
            for guess in guesses if progress else ():
                write_line(guess)
            return opened

        return _learnt(path, begin, allow_code=True, progress=progress)


def add(
    run: RunResult | str | os.PathLike[str],
    task: TaskLike,
    overrides: Sequence[str] = (),
    *,
    output: str | os.PathLike[str] | None = None,
    data: Any = None,
    allow_code: bool = False,
    run_code: bool = False,
    run_code_unsandboxed: bool = False,
    progress: bool = True,
) -> RunResult:
    """Learns the next task on top of a finished run, as `stockpot add` does.

    It can be interrupted as `stockpot.run` can.

    Args:
        run: the run, or its folder.
        task: the path of a file with one entry of `tasks`, a dict of what would be in it, or a TaskSpec.
        overrides: `key.sub=value` each, values in YAML.
        output: branch: leave the run as it is, and continue in this new folder.
        data: what was passed in Python when the run was made, where this process lacks it: a data set, or several in a
            list or dict. They are known by their content.
        allow_code: whether the model may be built by code that the run folder names.
        run_code: agree to run the programs that a model writes, in a sandbox (metric pass@k).
        run_code_unsandboxed: agree to run them even without a sandbox: they can then do what you can do here.
        progress: bars or lines on stderr.

    Returns:
        The longer run; the object that was passed in keeps its numbers.

    Raises:
        StockpotError: the folder is not a finished run, or the task does not fit into its stream.
        Stopped: a KeyboardInterrupt, when it was asked to stop.
    """
    with prepared(run_code, run_code_unsandboxed):
        if data is not None:
            pass_again(data)
        checked = as_task(task, overrides)
        folder = folder_of(run)
        target = folder if output is None else Path(output)

        def begin() -> None:
            if output is not None:
                branch(folder, target)
            try:
                guesses = add_task(target, checked, allow_code=allow_code)
            except StockpotError:
                if output is not None:  # the branch was made a moment ago, and nothing was learnt in it
                    shutil.rmtree(target)
                raise
            for guess in guesses if progress else ():
                write_line(guess)

        return _learnt(target, begin, allow_code=allow_code, progress=progress)


def resume(
    run: RunResult | str | os.PathLike[str],
    *,
    data: Any = None,
    allow_code: bool = False,
    run_code: bool = False,
    run_code_unsandboxed: bool = False,
    progress: bool = True,
) -> RunResult:
    """Continues an interrupted run from wherever it stopped, as `stockpot resume` does; a finished one is only read.

    It can be interrupted as `stockpot.run` can.

    Args:
        run: the run folder.
        data: what was passed in Python when the run was made, where this process lacks it: a data set, or several in a
            list or dict. They are known by their content.
        allow_code: whether the model may be built by code that the run folder names.
        run_code: agree to run the programs that a model writes, in a sandbox (metric pass@k).
        run_code_unsandboxed: agree to run them even without a sandbox: they can then do what you can do here.
        progress: bars or lines on stderr.

    Returns:
        The finished run.

    Raises:
        StockpotError: the folder is not a run, was edited or damaged, or its data changed.
        Stopped: a KeyboardInterrupt, when it was asked to stop.
    """
    with prepared(run_code, run_code_unsandboxed):
        if data is not None:
            pass_again(data)
        path = resumable(folder_of(run)).path
        return _learnt(path, lambda: None, allow_code=allow_code, progress=progress)


def resumable(path: Path) -> RunFolder:
    """The run folder at `path`, for reading. Raises StockpotError for any other folder, such as a comparison's."""
    if (path / "recipe.yaml").is_file() and (path / "cells").is_dir():
        raise StockpotError(f"{path}: this is a comparison; run its `stockpot compare` again, which continues it.")
    return RunFolder.open(path)


def folder_of(run: RunResult | str | os.PathLike[str]) -> Path:
    """The folder of a run that is given as an object or as a path."""
    return run.path if isinstance(run, RunResult) else Path(run)


def _learnt(path: Path, begin: Callable[[], Stream | None], *, allow_code: bool, progress: bool) -> RunResult:
    """The run after `begin`, which may hand over the opened stream, and after the tasks that are left."""
    with stopping_after_step(path, f"stockpot.resume({str(path)!r})") as stop:
        opened = begin()
        with closing(terminal_progress() if progress else Progress()) as shown:
            results = continue_run(path, allow_code=allow_code, stop=stop, progress=shown, opened=opened)
    RunFolder.open(path)  # raises if it is gone: a report would make the folder anew
    return RunResult(path, results)
