"""What a program that a model wrote can do, and what it cannot: every promise of the sandbox is attacked.

Neither torch nor the conftest files are needed: `test_the_same_as_another_user` runs this file again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from stockpot.errors import StockpotError
from stockpot.evaluation.language import bubblewrap, sandbox, sandbox_check
from stockpot.evaluation.language.program import Limits, run_program
from stockpot.evaluation.language.sandbox import passes

QUICK = Limits(seconds=5.0)
SECRET = "a-secret-of-the-user"


def _need_the_sandbox() -> None:
    if (fault := sandbox_check.obstacle()) is not None:
        (pytest.fail if os.environ.get("STOCKPOT_SANDBOX_REQUIRED") == "1" else pytest.skip)(f"no sandbox: {fault}")


@pytest.fixture
def sandboxed() -> None:
    _need_the_sandbox()


@pytest.fixture(params=[True, False], ids=["confined", "unconfined"])
def confined(request: pytest.FixtureRequest) -> bool:
    if request.param:
        _need_the_sandbox()
    return bool(request.param)


def _together(programs: dict[str, str], begin: str = "") -> str:
    """A program that runs the programs one after the other, `begin` before each; `ended` names those that did."""
    return (
        f"ended = set()\nfor name, program in {programs!r}.items():\n"
        f"    try:\n        exec({begin!r}, {{}})\n    except OSError: pass\n"
        "    try:\n        exec(program, {})\n    except Exception: continue\n    ended.add(name)\n"
    )


@dataclass
class Outside:
    """What a program would like to reach."""

    folder: Path
    victim: subprocess.Popen[bytes]
    port: int

    def fill(self, attack: str) -> str:
        """The attack, aimed at this."""
        names = {"FOLDER": str(self.folder), "VICTIM": str(self.victim.pid), "PORT": str(self.port), "SECRET": SECRET}
        for name, value in names.items():
            attack = attack.replace(name, value)
        return attack

    @property
    def whole(self) -> bool:
        """Whether nobody has been here."""
        files = {entry.name: entry.read_text() for entry in self.folder.iterdir() if entry.is_file()}
        return files == {"kept": "kept"} and self.victim.poll() is None


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    (tmp_path / "kept").write_text("kept")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(["sleep", "60"], env={"HF_TOKEN": SECRET}) as victim,
    ):
        try:
            yield Outside(tmp_path, victim, server.getsockname()[1])
        finally:
            victim.kill()


# Each reaches its end where it succeeds.
ATTACKS = {
    "read": "open('FOLDER/kept').read()",
    "write": "open('FOLDER/new', 'w').close()",
    "write by a descriptor": "import os\nos.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=os.open('FOLDER', 0))",
    "write by a database": "import sqlite3\nwith sqlite3.connect('FOLDER/new') as c: c.execute('create table t(x)')",
    "write by a link": "import os\nos.symlink('FOLDER', 'link')\nopen('link/new', 'w').close()",
    "make a pipe": "import os\nos.mkfifo('FOLDER/new')",
    "remove": "import os\nos.remove('FOLDER/kept')",
    "empty": "import os\nos.truncate('FOLDER/kept', 0)",
    "remove everything": "import shutil\nshutil.rmtree('FOLDER')",
    "read the environment": "assert b'SECRET' in open('/proc/VICTIM/environ', 'rb').read()",
    "kill": "import os\nos.kill(VICTIM, 9)",
    "kill by a descriptor": "import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(VICTIM), 9)",
    "shell": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo > FOLDER/new'], check=True)",
    "system": "import os\nassert os.system('true') == 0",
    "spawn": "import os\nos.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)",
    "fork": "import os\nif os.fork() == 0: os._exit(0)",
    "fork in C": "import ctypes, os\npid = ctypes.CDLL(None).fork()\nassert pid >= 0\nif pid == 0: os._exit(0)",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', PORT), timeout=2)",
    "shared memory": "import ctypes\nc = ctypes.CDLL(None)\nn = c.shmget(0, 1, 0o1600)\nassert n >= 0; c.shmctl(n, 0)",
    "memory as a file": "import os\nos.memfd_create('x')",
    "fill its folder": "import os\ntry:\n    for n in range(4): open(str(n), 'wb').write(bytes(2**20))\n"
    "finally:\n    for n in os.listdir(): os.remove(n)",
    "fill /tmp": "import tempfile\nfiles = [tempfile.NamedTemporaryFile() for n in range(4)]\n"
    "for f in files: f.write(bytes(2**20)); f.flush()",
}
BEFORE_EACH = (
    "import os, shutil\nshutil.rmtree('FOLDER', True)\nos.mkdir('FOLDER')\nopen('FOLDER/kept', 'w').write('kept')"
)


def test_what_works_outside_the_sandbox_does_not_work_in_it(outside: Outside, sandboxed: None) -> None:
    limits = Limits(seconds=20.0, folder=2 * 2**20)
    attacks = _together({name: outside.fill(attack) for name, attack in ATTACKS.items()}, outside.fill(BEFORE_EACH))
    if not run_program(f"{attacks}assert not ended", limits, confined=True).passed:
        each = {
            name: run_program(outside.fill(attack), limits, confined=True).passed for name, attack in ATTACKS.items()
        }
        pytest.fail(f"what got out: {[name for name, passed in each.items() if passed]}")
    assert outside.whole
    # Otherwise an attack that is wrong in itself would prove something.
    assert run_program(
        f"{attacks}assert ended == {set(ATTACKS)}, set({list(ATTACKS)}) - ended", limits, confined=False
    ).passed


@pytest.mark.parametrize("program", ["/bin/sh", sys.executable])
def test_a_program_that_turns_into_a_shell_is_confined_as_it_was(
    program: str, outside: Outside, sandboxed: None
) -> None:
    script = outside.fill("echo > FOLDER/new; rm FOLDER/kept; kill -9 VICTIM")
    arguments = ["sh", "-c", script] if program == "/bin/sh" else ["python", "-c", f"import os; os.system({script!r})"]
    run_program(f"import os\nos.execv({os.path.realpath(program)!r}, {arguments})", QUICK, confined=True)
    assert outside.whole


def test_nothing_can_be_written_but_the_folder_and_two_of_the_system(sandboxed: None) -> None:
    places = ["/", "/usr", "/etc", "/root", "/home", "/var", "/run", str(Path.cwd()), *bubblewrap.packages()]
    look = (
        f"import os\nplaces = set({places!r})\n"
        "places |= {line.split()[1] for line in open('/proc/self/mounts')}\n"
        "written = set()\n"
        "for place in places | {os.getcwd()}:\n"
        "    try:\n        open(place + '/new', 'w').close()\n"
        "    except OSError:\n        continue\n"
        "    written.add(place)\n"
        "assert written == {'/tmp', '/dev/shm', '/tmp/program'}, written\n"
    )
    assert passes(look, QUICK)


def test_home_and_the_project_cannot_be_seen(sandboxed: None, tmp_path: Path) -> None:
    needed = {Path(bubblewrap.python()), *map(Path, bubblewrap.packages())}
    look = "import os\nfor p in {!r}: assert not os.path.isfile(p) and not (os.path.isdir(p) and os.listdir(p)), p"
    private = [path for path in (Path(__file__).parents[3], Path.home(), tmp_path) if path.is_dir()]
    unneeded = [
        str(entry)
        for path in private
        for entry in path.iterdir()
        if not any(entry in (folder, *folder.parents) for folder in needed)
    ]
    assert passes(look.format(unneeded), QUICK)


def test_a_fork_bomb_and_a_thread_bomb_end(sandboxed: None) -> None:
    assert not passes("import os\nwhile True: os.fork()", _marked(2.0))
    threads = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    assert not passes(threads, _marked(2.0))
    assert _soon(lambda: not _running())


def test_limits_cannot_be_lifted(sandboxed: None) -> None:
    lift = "import resource as r\nr.setrlimit(r.RLIMIT_{}, (r.RLIM_INFINITY,) * 2)"
    for name in ("AS", "CPU", "FSIZE", "NOFILE"):
        assert not passes(lift.format(name), QUICK)


def test_another_namespace_cannot_be_opened(sandboxed: None) -> None:
    assert passes(
        "import ctypes\nfor kind in (0x10000000, 0x20000): assert ctypes.CDLL(None).unshare(kind) == -1", QUICK
    )


@pytest.mark.parametrize("machine", bubblewrap.PROCESSORS)
def test_the_filter_of_each_processor_says_what_it_should(machine: str) -> None:
    """Run by hand here, as the kernel would: also that of the processor that this is not."""
    own, other = (bubblewrap._AUDIT[name] for name in sorted(bubblewrap.PROCESSORS, key=lambda name: name != machine))
    clone, refuse, kill = bubblewrap._CLONE[machine], 0x00050001, 0x80000000
    assert _filtered(machine, own, clone, 0x00010F00) == 0x7FFF0000  # a thread
    assert _filtered(machine, own, clone, 17) == refuse  # a process
    assert _filtered(machine, own, bubblewrap._REFUSED[machine][0]) == refuse
    assert _filtered(machine, own, 435) == 0x00050000 | 38
    assert _filtered(machine, own, 0) == 0x7FFF0000  # any other call
    assert _filtered(machine, own, 0x40000000 + clone, 17) == kill
    assert _filtered(machine, other, 0) == kill


def _filtered(machine: str, architecture: int, number: int, argument: int = 0) -> int:
    import struct

    data = {0: number, 4: architecture, 16: argument}
    steps = list(struct.iter_unpack("=HBBI", bubblewrap.system_call_filter(machine)))
    at = value = 0
    while True:
        code, yes, no, k = steps[at]
        if code == 0x06:
            return int(k)
        if code == 0x20:
            value = data[k]
            at += 1
            continue
        holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
        at += 1 + (yes if holds else no)


# In the sandbox and without it

HONEST = {
    "the standard library": "import math, re, collections, heapq, itertools, functools, random, datetime, sqlite3",
    "output": "print('x' * 10**7)\nprint('ünï 文')",
    "threads": "import threading\nr = []\nt = threading.Thread(target=r.append, args=(1,))\nt.start(); t.join(); r[0]",
    "a pool of threads": "from concurrent.futures import ThreadPoolExecutor as T\nassert list(T().map(int, '1'))",
    "asyncio": "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1",
    "temporary files": "import tempfile\nwith tempfile.NamedTemporaryFile('w') as f: f.write('x')",
    "files": "open('a', 'w').write('x')\nassert open('a').read() == 'x'",
    "nothing on stdin": "import sys\nassert sys.argv == ['program.py'] and sys.stdin.read() == ''",
    "an exit that is not taken": "if False: exit()\nassert callable(quit)",
    "recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and f(n - 1)\nassert f(20000) == 0",
}


def test_honest_programs_pass(confined: bool) -> None:
    assert run_program("assert 1 + 1 == 2", QUICK, confined).passed
    if not run_program(f"{_together(HONEST)}assert ended == {set(HONEST)}", QUICK, confined).passed:
        each = {name: run_program(program, QUICK, confined).passed for name, program in HONEST.items()}
        pytest.fail(f"what fails: {[name for name, passed in each.items() if not passed]}")


def test_numpy_can_be_used(confined: bool) -> None:
    pytest.importorskip("numpy")
    program = "import numpy as np\nassert np.arange(4).sum() == 6\nassert (np.eye(50) @ np.eye(50)).sum() == 50"
    assert run_program(program, QUICK, confined).passed


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 + 1 == 3",
        "def f(:",
        "import sys; sys.exit(0)\nassert False",
        "import os; os._exit(0)\nassert False",
        "exit()\nassert False",
        "input()",
        "import os\nos.abort()",
        "import ctypes\nctypes.string_at(0)",
        "import os\nos.close(3)",
    ],
)
def test_only_a_program_that_reaches_its_end_passes(program: str, confined: bool) -> None:
    assert not run_program(program, QUICK, confined).passed


def test_what_is_said_at_the_end_cannot_be_read_off_the_command_line(confined: bool) -> None:
    forged = (
        "import os\nfor word in open('/proc/self/cmdline', 'rb').read().split(b'\\0'):\n"
        "    for number in range(20):\n"
        "        try:\n            os.write(number, word)\n        except OSError:\n            pass\nos._exit(0)"
    )
    assert not run_program(forged, QUICK, confined).passed


def test_the_environment_is_empty(confined: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    # Python itself sets LC_CTYPE in the C locale, and bubblewrap PWD.
    known = {"LC_CTYPE", "PWD", "OMP_NUM_THREADS", "TMPDIR"}
    assert run_program(f"import os\nassert set(os.environ) <= {known}, os.environ", QUICK, confined).passed


def test_time_is_limited(confined: bool) -> None:
    assert not run_program("while True: pass", _marked(0.5), confined).passed
    with ThreadPoolExecutor() as pool:
        sleeper = pool.submit(
            run_program, "import time; time.sleep(60)", _marked(1.0), confined
        )  # would pass after a minute
        assert _soon(_running)
        assert not sleeper.result().passed
    assert _soon(lambda: not _running())


def test_memory_is_limited(confined: bool) -> None:
    claim = "held = bytearray({} * 2**20)"
    assert run_program(claim.format(100), Limits(memory=512 * 2**20), confined).passed
    assert not run_program(claim.format(600), Limits(memory=512 * 2**20), confined).passed


def test_files_are_limited_in_a_folder_that_is_empty_and_removed(
    confined: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write = "import os\nassert os.listdir() == []\nwith open('out', 'wb') as file: file.write(bytes({}))"
    assert run_program(write.format(1000), Limits(file=2000), confined).passed
    assert not run_program(write.format(3000), Limits(file=2000), confined).passed
    assert list(tmp_path.iterdir()) == []


def test_endless_output_is_not_kept(confined: bool) -> None:
    flood = (
        "import os\nfor number in range(3, 9):\n"
        "    try:\n        while True: os.write(number, bytes(2**20))\n    except OSError: pass"
    )
    tracemalloc.start()
    try:
        assert not run_program(flood, Limits(seconds=0.5), confined).passed
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_without_the_sandbox_what_a_program_started_dies_with_it() -> None:
    start = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\ntime.sleep({})"
    assert not run_program(start.format(60), _marked(0.5), confined=False).passed
    run_program(start.format(0), _marked(0.5), confined=False)
    assert _soon(lambda: not _running())


def _marked(seconds: float) -> Limits:
    """Limits that tell the programs of this test process from all others: their command line has them."""
    return Limits(seconds, memory=2**29 + os.getpid())


def _running() -> list[str]:
    """The live processes that run a program within `_marked` limits."""
    mark = str(_marked(1.0).memory).encode()
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if mark in words and b"--die-with-parent" not in words and state != "Z":
                numbers.append(entry.name)
    return numbers


def _soon(holds: Callable[[], object]) -> bool:
    for _ in range(200):
        if holds():
            return True
        time.sleep(0.02)
    return False


# Whether there is a sandbox, and what is said where there is none


def test_the_check_finds_that_a_program_without_the_sandbox_gets_out() -> None:
    assert (
        sandbox_check.escapes(confined=False)
        == "a program that was run in it as a check read a file outside its folder"
    )
    assert sandbox_check.honest_fault(confined=False) is None


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PATH", "/nowhere")
    sandbox_check.obstacle.cache_clear()
    yield
    sandbox_check.obstacle.cache_clear()


def test_without_a_sandbox_nothing_runs_unless_the_user_agreed(
    without_bubblewrap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STOCKPOT_RUN_CODE_UNSANDBOXED", raising=False)
    monkeypatch.setenv("STOCKPOT_RUN_CODE", "1")
    with pytest.raises(StockpotError, match=r"bubblewrap is not installed\. Install .* or add --run-code-unsandboxed"):
        passes("assert True")
    monkeypatch.setenv("STOCKPOT_RUN_CODE_UNSANDBOXED", "1")
    assert passes("import threading")
    assert not passes("assert False")


def test_a_sandbox_that_a_program_gets_out_of_is_none(monkeypatch: pytest.MonkeyPatch, sandboxed: None) -> None:
    whole = ["--dev-bind", "/", "/", "--proc", "/proc", "--chdir", "/tmp", "--"]
    monkeypatch.setattr(
        bubblewrap, "command", lambda _folder, filters: [str(bubblewrap.where()), "--seccomp", str(filters), *whole]
    )
    sandbox_check.obstacle.cache_clear()
    try:
        with pytest.raises(StockpotError, match=r"as a check read a file outside its folder\. Install"):
            passes("assert True")
    finally:
        sandbox_check.obstacle.cache_clear()


def test_a_sandbox_that_does_not_start_is_none_and_its_words_are_passed_on(
    monkeypatch: pytest.MonkeyPatch, sandboxed: None
) -> None:
    bwrap = str(bubblewrap.where())
    monkeypatch.setattr(bubblewrap, "command", lambda _folder, _filters: [bwrap, "--no-such-option", "--"])
    assert "it does not start here (bwrap: Unknown option --no-such-option)" in str(
        sandbox_check.escapes(confined=True)
    )
    with pytest.raises(StockpotError, match=r"could not be started: bwrap: Unknown option"):
        passes("assert True")  # the check was made before: it is not counted as a program that fails


def test_where_honest_programs_fail_it_is_said(without_bubblewrap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKPOT_RUN_CODE_UNSANDBOXED", "1")
    monkeypatch.setattr(sandbox_check, "_HONEST", "raise SystemExit(1)")
    sandbox_check.honest_fault.cache_clear()
    try:
        with pytest.raises(StockpotError, match=r"cannot be run: an honest program .* fails in it \(exit code 1\)"):
            sandbox.confined()
    finally:
        sandbox_check.honest_fault.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_same_as_another_user(tmp_path: Path) -> None:
    """The attacks and the honest programs of this file again, as the user `nobody`."""
    needed = [sys.prefix, sys.base_prefix, str(Path(__file__).parents[3]), *bubblewrap.packages()]
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "-i", f"PATH={os.environ['PATH']}"]
    command += [f"STOCKPOT_SANDBOX_REQUIRED={os.environ.get('STOCKPOT_SANDBOX_REQUIRED', '')}"]
    command += [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull, __file__]
    command += ["-k", "outside or honest or numpy or written or agreed or environment or seen", "-x", "-rs"]
    steps = [*_opened({Path(path).resolve() for path in needed}, tmp_path), f"exec {shlex.join(command)}"]
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-e", "-c", "\n".join(steps)], capture_output=True, text=True, check=False
    )
    if "unshare failed" in ended.stderr and os.environ.get("STOCKPOT_SANDBOX_REQUIRED") != "1":
        pytest.skip(f"no namespaces here: {ended.stderr}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout


def _opened(needed: set[Path], stage: Path) -> list[str]:
    """Shell commands after which everybody reaches these folders, in a mount namespace: root's home may hold them."""
    closed: dict[Path, list[Path]] = {}
    for path in sorted(needed):
        barred = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001]
        if barred and not needed.intersection(path.parents):
            closed.setdefault(barred[0], []).append(path)
    steps: list[list[str]] = []
    for top, paths in closed.items():
        aside = {path: stage / f"{top.name}-{number}" for number, path in enumerate(paths)}
        for path, to in aside.items():
            steps += [["mkdir", str(to)], ["mount", "--rbind", str(path), str(to)]]
        steps += [["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(top)]]
        for path, to in aside.items():
            steps += [["mkdir", "-p", str(path)], ["mount", "--move", str(to), str(path)]]
    return [shlex.join(step) for step in steps]
