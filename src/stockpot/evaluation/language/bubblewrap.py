"""The sandbox: bubblewrap's namespaces, which hide most of the system, and a filter of system calls.

A program sees the system's and Python's libraries, read-only, and an empty folder and /tmp, which are in memory,
limited in size and gone afterwards. It has no network, sees no other process, and cannot start one: everything that it
uses is used by one process, which the kernel limits.
"""

from __future__ import annotations

import platform
import shutil
import struct
import sys
from pathlib import Path

# What programs need from the system besides Python: libraries, and files that the loader and time zones look up.
_SYSTEM = ("/usr", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/nix/store", "/gnu/store")
_TOP = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

PROGRAM_FOLDER = "/tmp/program"  # inside the sandbox, whose /tmp is its own


def where() -> str | None:
    """The path of `bwrap`; None where it is not installed."""
    return shutil.which("bwrap")


def python() -> str:
    """The interpreter with links resolved, so that the sandbox needs no folder of a virtual environment."""
    return str(Path(sys.executable).resolve())


def packages() -> list[str]:
    """The folders of installed packages that this process imports from."""
    folders = (Path(folder).resolve() for folder in sys.path)
    return [str(folder) for folder in folders if folder.name in ("site-packages", "dist-packages")]


def command(folder: int, filters: int) -> list[str]:
    """The prefix that confines a command.

    /tmp and /dev/shm each hold at most `folder` bytes; `filters` is the file descriptor of the filter.
    """
    bwrap = where()
    assert bwrap is not None, "checked before"
    prefix = Path(python()).parent.parent
    inside = [python(), *(str(prefix / name) for name in ("lib", "lib64")), *packages()]
    links = [option for path in _TOP for option in _link_or_folder(path)]
    return [
        *(bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1"),
        *("--cap-drop", "ALL", "--seccomp", str(filters)),
        *_visible(*_SYSTEM),
        *links,
        *("--proc", "/proc", "--remount-ro", "/proc"),
        *("--dev", "/dev", "--size", str(folder), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),
        *("--size", str(folder), "--tmpfs", "/tmp", "--dir", PROGRAM_FOLDER, "--chdir", PROGRAM_FOLDER),
        *_visible(*(path for path in inside if not path.startswith("/usr/"))),
        *("--remount-ro", "/", "--"),
    ]


def _visible(*paths: str) -> list[str]:
    return [option for path in paths if Path(path).exists() for option in ("--ro-bind", path, path)]


def _link_or_folder(path: str) -> list[str]:
    return ["--symlink", str(Path(path).readlink()), path] if Path(path).is_symlink() else _visible(path)


# The filter is a program in classic BPF: constants from linux/bpf_common.h, linux/seccomp.h and linux/audit.h.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_OTHER_NUMBERS = 0x40000000  # from here on, x86-64 numbers its calls again for the x32 ABI, past our list

# fork and vfork; other namespaces (unshare, setns); memory beside the address space (shmget).
_REFUSED = {"x86_64": (57, 58, 272, 308, 29), "aarch64": (97, 268, 194)}
# clone3, since a filter cannot see its flags: the C library then falls back to clone; memfd_create.
_UNKNOWN = {"x86_64": (435, 319), "aarch64": (435, 279)}
_CLONE = {"x86_64": 56, "aarch64": 220}
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

PROCESSORS = tuple(_CLONE)


def system_call_filter(machine: str | None = None) -> bytes:
    """A filter that allows threads and refuses processes, for the processor `machine`; by default for this one."""
    machine = machine or platform.machine()
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _OTHER_NUMBERS),
        (_RETURN, 0, 0, _KILL),
    ]
    for error, calls in ((_EPERM, _REFUSED[machine]), (_ENOSYS, _UNKNOWN[machine])):
        for call in calls:
            steps += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _REFUSE | error)]
    steps += [
        (_EQUAL, 0, 3, _CLONE[machine]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _REFUSE | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
