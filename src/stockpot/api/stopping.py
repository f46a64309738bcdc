"""SIGTERM and Ctrl-C, in a terminal or a notebook: training stops after the current step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stockpot.training.job import Interrupted, Stop


class Stopped(KeyboardInterrupt):
    """Training stopped after a whole step because it was asked to; everything so far is saved.

    `path` is the folder of the run or comparison, `number` the signal's.
    """

    def __init__(self, path: Path, number: int, again: str) -> None:
        super().__init__(f"stopped after a whole step; everything so far is saved. Go on with {again}")
        self.path = path
        self.number = number


@contextmanager
def stopping_after_step(path: Path, again: str) -> Iterator[Stop]:
    """While the block runs, the first SIGTERM or Ctrl-C stops training after the current step; a second one at once.

    The `Stop` is what the training loop asks after every step. Signals reach the main thread only: in another thread
    nothing is caught.

    Args:
        path: the folder that is written.
        again: the call that goes on from there.

    Raises:
        Stopped: where the loop raises `Interrupted`.
    """
    stop = Stop()
    received: list[int] = []
    here = threading.current_thread() is threading.main_thread()
    handlers = {int(number): signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if here else {}
    before = {number: handler for number, handler in handlers.items() if handler is not None}  # None: not Python's

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        stop.requested = True
        received.append(number)
        signal.signal(number, before[number])  # the next one is not caught

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    except Interrupted as error:
        raise Stopped(path, received[0], again) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
