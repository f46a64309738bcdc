"""Running a program that a model wrote: with limits, but without any promise against one that means harm.

What holds on Linux: the program and what it starts are killed after `seconds`; processor time, address space and the
size of each file are limited by the kernel; it starts in an empty folder that is removed, with an empty environment and
nothing to read. What is only refused to plain Python code, by an audit hook: starting processes, sending signals,
opening sockets, and changing files outside its folder. What does **not** hold: native code can pass the hook, so there
is **no guarantee that the network is out of reach**; every file that the user can read can be read; many small files
can fill a disk; a program that searches the memory of its own process finds what is said of one that passes. Run the
code of models that you do not trust in a container without a network.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from stockpot.errors import StockpotError


@dataclass(frozen=True)
class Limits:
    """What one program may take."""

    seconds: float = 5.0  # of the wall clock; of the processor as many, rounded up
    memory: int = 512 * 2**20  # bytes of address space
    file: int = 2**20  # bytes in one file


# Runs inside the child. A program passes by reaching its end: leaving early, by whatever exit code, is no pass.
_CHILD = """
import os, resource, sys
cpu, memory, file = map(int, sys.argv[1:])
key, _, source = sys.stdin.buffer.read().partition(b"\\n")
verdict, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nowhere, number)
sys.argv[:] = ["program.py"]
here = os.path.realpath(os.getcwd()) + os.sep

def limit(which, value):
    resource.setrlimit(which, (value, value))

limit(resource.RLIMIT_CORE, 0)
limit(resource.RLIMIT_CPU, cpu)
limit(resource.RLIMIT_FSIZE, file)
limit(resource.RLIMIT_AS, memory)
try:
    limit(resource.RLIMIT_NPROC, 0)
except (ValueError, OSError):
    pass

never = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.spawn", "os.exec", "os.system", "os.kill")
changing = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.link",
            "os.symlink", "os.utime", "shutil.rmtree", "shutil.move"}
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def watch(event, arguments, real=os.path.realpath, inside=here, fspath=os.fsdecode, PathLike=os.PathLike):
    if event.startswith(never):
        raise PermissionError(event)
    if event in changing or (event == "open" and arguments[2] & writing):
        places = arguments[:1] if event == "open" else arguments
        for place in places:
            if isinstance(place, (str, bytes, PathLike)) and not (real(fspath(place)) + "/").startswith(inside):
                raise PermissionError(event)

sys.addaudithook(watch)
space = {"__name__": "__main__"}
exec(compile(source, "program.py", "exec"), space)
os.write(verdict, key)
"""


def passes(program: str, limits: Limits | None = None) -> bool:
    """Whether the Python program runs to its end without an error, within the limits; see the module's promise.

    Raises StockpotError where the system cannot limit a process.
    """
    if os.name != "posix":
        raise StockpotError("pass@k needs Linux or macOS: this system cannot limit what a program takes.")
    limits = limits or Limits()
    key = secrets.token_hex(16).encode()  # through the pipe: every program can read its command line
    numbers = (str(int(limits.seconds) + 1), str(limits.memory), str(limits.file))
    with tempfile.TemporaryDirectory(prefix="stockpot-", ignore_cleanup_errors=True) as folder:
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _CHILD, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            said, _ = child.communicate(key + b"\n" + program.encode(errors="replace"), timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            said = b""
        finally:
            # Also when the program has ended: what it started may not have.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            child.wait()
    return said == key and child.returncode == 0
