"""Runs files as `python FILE` would, but in forks of a process that has imported what the examples need: importing it
costs more than they do."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

HEAVY = ("torch", "sklearn.datasets", "transformers.trainer", "trl", "peft", "lightning", "stockpot.averaging.callback")


def run(file: Path, output: Path) -> int:
    """In the child: the exit code of the file."""
    for number, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output / (file.stem + ending), os.O_WRONLY | os.O_CREAT), number)
    os.chdir(output / file.stem)
    sys.argv = [str(file)]
    sys.path.insert(0, str(file.parent))
    code = 0
    try:
        runpy.run_path(str(file), run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve(connection: Connection) -> None:
    """Runs the files one after the other. Leaves in the output folder, for each file, its output and errors (NAME.out,
    NAME.err), its exit code (NAME.code), and the folder that it ran in (NAME)."""
    output, files = connection.recv()
    gc.disable()
    for name in HEAVY:
        with contextlib.suppress(ImportError):  # the examples that need it are not run
            importlib.import_module(name)
    gc.freeze()  # the Trainers collect garbage when they start
    gc.enable()
    for file in files:
        (output / file.stem).mkdir()
        pid = os.fork()
        if not pid:
            os._exit(run(file, output))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        (output / f"{file.stem}.code").write_text(str(code))
    connection.send("done")
