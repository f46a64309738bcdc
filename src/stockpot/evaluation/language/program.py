"""One Python program in a process of its own: its limits, and how we know that it reached its end."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from stockpot.evaluation.language import bubblewrap

# For the interpreter and the sandbox to start on a busy machine; the program's own time starts afterwards.
START_SECONDS = 60.0
# OpenBLAS threads take address space: one for each of 64 processors would exceed a program's limit.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}

# Runs inside the child. A program passes by reaching its end: exiting early, with any exit code, is not a pass.
# The key is written only then; it comes on stdin, which the program cannot read again.
_CHILD = """
import os, resource, site, sys
cpu, memory, file = map(int, sys.argv[1:4])
sys.path += sys.argv[4:]
site.setquit()
site.sethelper()
key, _, source = sys.stdin.buffer.read().partition(b"\\n")
verdict, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
for number, most in (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_CPU, cpu),
    (resource.RLIMIT_FSIZE, file),
    (resource.RLIMIT_NOFILE, 128),
    (resource.RLIMIT_AS, memory),
):
    hard = resource.getrlimit(number)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(number, (most, most))
for number in (0, 1, 2):
    os.dup2(nowhere, number)
sys.argv[:] = ["program.py"]
os.write(verdict, b"\\n")
exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
os.write(verdict, key)
"""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0  # of the wall clock; the same of the processor, rounded up
    memory: int = 512 * 2**20  # bytes of address space
    file: int = 2**20  # bytes in one file
    folder: int = 64 * 2**20  # bytes in all its files; only in the sandbox


@dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    started: bool  # the process was set up properly, and reached the program's first line
    passed: bool  # it also reached the end, without an error
    code: int  # exit code
    error: str  # what was written to stderr before it started


def run_program(program: str, limits: Limits, confined: bool) -> Outcome:
    """Runs a program within the limits, in the sandbox if `confined`; everything it started is killed afterwards."""
    key = secrets.token_hex(16).encode()  # not as an argument: every program can read its command line
    with contextlib.ExitStack() as stack:
        # Files rather than pipes, so that neither side waits for the other.
        source = stack.enter_context(tempfile.TemporaryFile())
        complaint = stack.enter_context(tempfile.TemporaryFile())
        source.write(key + b"\n" + program.encode(errors="replace"))
        source.seek(0)
        numbers = (str(int(limits.seconds) + 1), str(limits.memory), str(limits.file))
        command = [bubblewrap.python(), "-I", "-S", "-B", "-c", _CHILD, *numbers, *bubblewrap.packages()]
        if confined:
            child = _confined(command, limits, source, complaint)
        else:
            folder = tempfile.TemporaryDirectory(prefix="stockpot-", ignore_cleanup_errors=True)
            child = _popen(command, source, complaint, folder=stack.enter_context(folder))
        try:
            assert child.stdout is not None
            pipe = child.stdout.fileno()
            started = _read(pipe, 1, START_SECONDS) == b"\n"
            verdict = _read(pipe, len(key) + 1, limits.seconds) if started else b""
        finally:
            code = _end(child)
        complaint.seek(0)
        error = complaint.read().decode(errors="replace").strip()
    return Outcome(started, verdict == key and code == 0, code, error)


def _confined(command: list[str], limits: Limits, source: IO[bytes], complaint: IO[bytes]) -> subprocess.Popen[bytes]:
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(bubblewrap.system_call_filter())
        return _popen(bubblewrap.command(limits.folder, reading) + command, source, complaint, filters=(reading,))
    finally:
        os.close(reading)


def _popen(
    command: list[str], source: IO[bytes], complaint: IO[bytes], folder: str = "/", filters: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=complaint,
        cwd=folder,
        env={**ENVIRONMENT, **({} if filters else {"TMPDIR": folder})},
        pass_fds=filters,
        start_new_session=True,
    )


def _read(pipe: int, most: int, seconds: float) -> bytes | None:
    """The bytes up to the end of the stream, or the first `most` of them; None if neither came in time."""
    deadline = time.monotonic() + seconds
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    read = b""
    while len(read) < most:
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(1000 * left):
            return None
        piece = os.read(pipe, most - len(read))
        if not piece:
            break
        read += piece
    return read


def _end(child: subprocess.Popen[bytes]) -> int:
    """Kills the process and everything it started, which may outlive it; returns its exit code.

    The pipe ends once a process is exiting: its exit code is fixed by then, and the signal does not change it.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    assert child.stdout is not None
    child.stdout.close()
    return child.wait()
