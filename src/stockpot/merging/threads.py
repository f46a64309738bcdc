"""Threads over pieces: each worker takes the next one, in order; the result does not depend on their number."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

# Elements of a piece: small enough for its fp32 copies to stay in cache, large enough to hide Python's overhead.
PIECE = 1 << 18

_T = TypeVar("_T")


def for_each(items: Iterable[_T], act: Callable[[_T], None], threads: int) -> None:
    """Calls `act` on every item from `threads` threads; the first error, or Ctrl-C, stops all of them and is raised."""
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
            except BaseException as error:  # raised again in the caller's thread
                failed.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except BaseException as error:  # Ctrl-C reaches only the main thread
        failed.append(error)
        for worker in workers:
            worker.join()
        raise
    if failed:
        raise failed[0]


_END: object = object()


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Keeps torch from starting threads inside ours; restores its setting afterwards."""
    import torch

    # glibc raises its mmap threshold to the size of the largest block freed so far, and keeps smaller freed blocks
    # for reuse. Without this, the buffers of every piece would be returned to the system and faulted in again page by
    # page, which doubles the time of a merge.
    torch.empty(30 << 20, dtype=torch.uint8)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
