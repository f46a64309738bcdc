"""A process as this one was when all tests were collected and none had run: what is heavy is imported already."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

Work = Callable[[Connection], None]


class Pristine:
    """Forks a child for each use of it. A new Python would import torch and Transformers for eight seconds."""

    def __init__(self) -> None:
        self._requests, requests = Pipe()
        self._pid = os.fork()
        if not self._pid:
            self._requests.close()
            _leave_after(lambda: _serve(requests))
        requests.close()

    def start(self, work: Work) -> Connection:
        """Runs `work(connection)`, a function of a module, in a new child; returns the other end of the connection."""
        near, far = Pipe()
        self._requests.send(work)
        send_handle(self._requests, far.fileno(), self._pid)
        far.close()
        return near

    def close(self) -> None:
        """Waits until all of its children have ended, which they do when their connections are closed."""
        self._requests.close()
        os.waitpid(self._pid, 0)


def _serve(requests: Connection) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            work = requests.recv()
        except (EOFError, KeyboardInterrupt):
            break
        handle = recv_handle(requests)
        if not os.fork():
            requests.close()
            _leave_after(lambda handle=handle, work=work: work(Connection(handle)))
        os.close(handle)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _leave_after(work: Callable[[], None]) -> None:
    """Does the work and ends this process, without what pytest would do at its end."""
    try:
        with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # nobody asks any more
            work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
