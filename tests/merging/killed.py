"""A merge in a process that dies at its N-th write, sync or rename, half of a write done; see test_folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stockpot
from stockpot.merging.api import Options

count, last = 0, int(sys.argv[1])


def dying(real: Callable[..., Any], halves: bool = False) -> Callable[..., Any]:
    """The function, unless its turn has come."""

    def act(*arguments: Any, **keywords: Any) -> Any:
        global count  # noqa: PLW0603
        count += 1
        if count == last:
            if halves:
                handle, data, place = arguments
                real(handle, data[: len(data) // 2], place)
            os._exit(9)
        return real(*arguments, **keywords)

    return act


os.pwrite = dying(os.pwrite, halves=True)
os.fsync = dying(os.fsync)
os.rename = dying(os.rename)
os.replace = dying(os.replace)
os.rmdir = dying(os.rmdir)
os.unlink = dying(os.unlink)
folder = Path(sys.argv[2])
stockpot.merge(
    "ties",
    [folder / "a", folder / "b"],
    folder / "base",
    folder / "out",
    density=0.5,
    options=Options(max_shard_size="900B", threads=2),
)
print(count)
