"""How messages name an option: as a flag on the command line, as an argument in Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FLAGS = {
    "output": "-o", "methods": "--methods", "engine": "--engine", "minutes": "--budget", "search": "--search",
    "allow_code": "--allow-code", "run_code": "--run-code", "run_code_unsandboxed": "--run-code-unsandboxed",
}  # fmt: skip
_SWITCHES = {"allow_code", "run_code", "run_code_unsandboxed"}
_in_python: ContextVar[bool | None] = ContextVar("in_python", default=None)  # None: nobody has said


def option(name: str) -> str:
    """`-o` or `output=`, `--allow-code` or `allow_code=True`; with no caller that has said which, the flag."""
    if not _in_python.get():
        return _FLAGS[name]
    return f"{name}=True" if name in _SWITCHES else f"{name}="


def consenting(name: str) -> str:
    """What to do to agree: `add --run-code to the command`, or `pass run_code=True`."""
    return f"pass {option(name)}" if _in_python.get() else f"add {option(name)} to the command"


@contextmanager
def spelt_for_python() -> Iterator[None]:
    """Messages of the block are for callers in Python, unless a command called."""
    token = _in_python.set(_in_python.get() is not False)
    try:
        yield
    finally:
        _in_python.reset(token)


@contextmanager
def spelt_for_commands() -> Iterator[None]:
    """Messages of the block are for the command line."""
    token = _in_python.set(False)
    try:
        yield
    finally:
        _in_python.reset(token)
