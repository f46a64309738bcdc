"""SIGTERM and Ctrl-C in a command that leaves a whole output or none: what to do next, and the usual exit code."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from stockpot.cli.console import note


class _Signalled(BaseException):
    """Raised where the main thread stands when a signal comes; no `except Exception` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stopping_cleanly(what_next: Callable[[], str]) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C unwinds the block, prints what to do next and exits with 128 + the signal's number.

    A second one is not caught. `what_next` is asked after the block has cleaned up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        for each, handler in before.items():
            signal.signal(each, handler)
        raise _Signalled(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    except _Signalled as error:
        note(f"Stopped by {signal.Signals(error.number).name}: {what_next()}")
        sys.exit(128 + error.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
