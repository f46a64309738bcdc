"""SIGTERM and Ctrl-C: a command stops cleanly, says what to do next, and exits with the usual code."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from stockpot.cli.console import note, say

if TYPE_CHECKING:
    from stockpot.training.job import Stop


@contextmanager
def stopping_after_step(resume_command: str) -> Iterator[Stop]:
    """For commands that train: the first SIGTERM or Ctrl-C stops after the current step, with a checkpoint.

    A second one stops at once. The `Stop` is what the training loop asks after every step; where it raises
    `Interrupted`, `resume_command` is printed and the exit code is 128 + the signal's number.
    """
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
        say(f"\nStopped after a whole step; everything so far is saved. Go on with: {resume_command}")
        sys.exit(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Signalled(BaseException):
    """Raised wherever the main thread is when a signal arrives; no `except Exception` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stopping_cleanly(what_next: Callable[[], str]) -> Iterator[None]:
    """For commands that leave a whole output or none: the first SIGTERM or Ctrl-C unwinds the block.

    Then what to do next is printed and the exit code is 128 + the signal's number. A second signal is not caught.
    `what_next` is called after the block has cleaned up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
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
