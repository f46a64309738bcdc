"""A merge in a process that dies at its N-th write, sync or rename, half of a write done; see test_folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stockpot.merging.api import Options, merge

count, last = 0, 0


def dying(real: Callable[..., Any], halves: bool = False) -> Callable[..., Any]:
    """The function, which kills the process at call number `last`."""

    def act(*arguments: Any, **keywords: Any) -> Any:
        global count  # noqa: PLW0603
        count += 1
        if count == last:
            if halves:
                handle, data, offset = arguments
                real(handle, data[: len(data) // 2], offset)
            os._exit(9)
        return real(*arguments, **keywords)

    return act


def merge_and_die(folder: Path, at: int, answer: int) -> None:
    """Merges, and dies at the call number `at`; otherwise writes the number of calls to `answer`."""
    global last  # noqa: PLW0603
    last = at
    write = os.write
    os.pwrite = dying(os.pwrite, halves=True)
    os.fsync = dying(lambda handle: None)  # the page cache outlives the process: the disk need not be waited for
    os.rename = dying(os.rename)
    os.replace = dying(os.replace)
    os.rmdir = dying(os.rmdir)
    os.unlink = dying(os.unlink)
    merge(
        "ties",
        [folder / "a", folder / "b"],
        folder / "base",
        folder / "out",
        density=0.5,
        options=Options(max_shard_size="900B", threads=2),
    )
    write(answer, str(count).encode())


def serve(connection: Connection, folder: Path) -> None:
    """Answers each N with the exit code of such a merge, and its number of writes, syncs and renames if it lived."""
    while True:
        at = connection.recv()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                merge_and_die(folder, at, writing)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        connection.send((os.waitstatus_to_exitcode(status), int(os.read(reading, 100) or 0)))
        os.close(reading)
