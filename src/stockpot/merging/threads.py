"""Threads over pieces: every worker takes the next one, in order; what comes out hangs on the pieces alone."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

# Elements of a piece: its fp32 copies stay in the processor's cache, and Python's share of the time is small.
PIECE = 1 << 18

_T = TypeVar("_T")


def for_each(items: Iterable[_T], act: Callable[[_T], None], threads: int) -> None:
    """Calls `act` on every item from `threads` threads; the first error, or Ctrl-C, stops all and is raised."""
    if threads == 1:
        for item in items:
            act(item)
        return
    queue, lock, failed = iter(items), threading.Lock(), list[BaseException]()

    def work() -> None:
        while not failed:
            with lock:
                item = next(queue, _END)
            if item is _END:
                return
            try:
                act(item)  # type: ignore[arg-type]
            except BaseException as error:  # carried to the caller's thread
                failed.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except BaseException as error:  # Ctrl-C reaches the main thread alone
        failed.append(error)
        for worker in workers:
            worker.join()
        raise
    if failed:
        raise failed[0]


_END: object = object()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Keeps torch from starting threads of its own inside ours; restores its setting."""
    import torch

    # Freeing one large block teaches glibc to keep freed blocks up to that size: returning those of every piece to
    # the system, and taking them again page by page, would double the time of a merge.
    torch.empty(30 << 20, dtype=torch.uint8)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
