"""SIGTERM and Ctrl-C: a command stops cleanly, says what to do next, and exits with the usual code."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stockpot.cli.console import note, say


@contextmanager
def explaining_stops(again: Callable[[Path], str]) -> Iterator[None]:
    """For commands that train: where the first SIGTERM or Ctrl-C stopped training, says how to go on.

    `again` makes the command of the folder; the exit code is 128 + the signal's number.
    """
    from stockpot.api.stopping import Stopped

    try:
        yield
    except Stopped as stopped:
        command = again(stopped.path)
        say(f"\nStopped after a whole step; everything so far is saved. Go on with: {command}")
        sys.exit(128 + stopped.number)


def resume_command_of(folder: Path) -> str:
    """The command that continues the run in a folder."""
    return f"stockpot resume {folder}"


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
