"""Whether the sandbox holds on this machine: a test program tries to escape before any that a model wrote runs."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import socket
import tempfile
from pathlib import Path

from stockpot.evaluation.language import bubblewrap
from stockpot.evaluation.language.program import Limits, run_program

_ATTEMPTS = (
    "read a file outside its folder",
    "wrote a file outside its folder",
    "removed a file outside its folder",
    "wrote to the system's folders",
    "saw another process",
    "started a process",
    "reached the network",
    "lifted its limit on memory",
)
_FIRST = 10  # the exit code if the first of these succeeds; the next one, 11, if the second does

_PROBE = """
import os, resource, socket, sys
outside, port, folders = {outside!r}, {port!r}, {folders!r}

def read(): open(outside + "/kept").read()
def write(): open(outside + "/new", "w").close()
def remove(): os.remove(outside + "/kept")

def write_system():
    for folder in folders:
        path = folder + "/.stockpot-probe"
        try:
            open(path, "w").close()
        except OSError:
            continue
        os.remove(path)
        return
    raise PermissionError

def see():
    if not [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()] and not os.getppid():
        raise PermissionError

def start():
    if os.fork() == 0:
        os._exit(0)

def connect(): socket.create_connection(("127.0.0.1", port), timeout=1)
def lift(): resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

for number, attempt in enumerate((read, write, remove, write_system, see, start, connect, lift)):
    try:
        attempt()
    except (OSError, ValueError):
        continue
    os._exit({first} + number)
"""

_HONEST = """
import threading
seen = []
thread = threading.Thread(target=seen.append, args=(1,))
thread.start()
thread.join()
assert seen == [1]
"""


@functools.cache
def obstacle() -> str | None:
    """Why programs cannot be confined on this machine; None where they can. Tried once per process."""
    if platform.system() != "Linux":
        return "it needs Linux"
    if platform.machine() not in bubblewrap.PROCESSORS:
        return f"it has no filter of system calls for this processor ({platform.machine()})"
    if bubblewrap.where() is None:
        return "bubblewrap is not installed"
    return escapes(confined=True) or honest_fault(confined=True)


def escapes(*, confined: bool) -> str | None:
    """How a program escaped; None where every attempt failed."""
    with (
        tempfile.TemporaryDirectory(prefix="stockpot-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        (Path(folder) / "kept").touch()
        folders = ["/", "/usr", "/etc", "/dev", "/proc", os.environ.get("HOME", "/root"), *bubblewrap.packages()]
        port = server.getsockname()[1]
        outcome = run_program(
            _PROBE.format(outside=folder, port=port, folders=folders, first=_FIRST), Limits(), confined
        )
    if not outcome.started:
        return f"it does not start here ({outcome.error or f'exit code {outcome.code}'})"
    if outcome.passed:
        return None
    number = outcome.code - _FIRST
    done = _ATTEMPTS[number] if 0 <= number < len(_ATTEMPTS) else f"ended with exit code {outcome.code}"
    return f"a program that was run in it as a check {done}"


@functools.cache
def honest_fault(*, confined: bool) -> str | None:
    """Why correct programs would fail here; None where threads, and numpy if it is installed, work."""
    numbers = "" if importlib.util.find_spec("numpy") is None else "import numpy\nassert numpy.ones(9).sum() == 9\n"
    outcome = run_program(numbers + _HONEST, Limits(seconds=60.0), confined)
    if outcome.passed:
        return None
    reason = outcome.error or f"exit code {outcome.code}"
    return f"an honest program that {'imports numpy and ' if numbers else ''}starts a thread fails in it ({reason})"
