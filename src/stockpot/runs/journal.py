"""The journal of a run: one JSON line per event, appended and synced. What is not in it does not exist."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal, overload

from stockpot.errors import StockpotError
from stockpot.files import explaining_disk_errors
from stockpot.runs.events import Added, Created, Event, Started, TaskDone, TrainingCheckpoint


def _sum(previous: str, body: str) -> str:
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()[:16]


def _parse(path: Path) -> tuple[list[Event], int, str]:
    """The events, the length in bytes of the lines that hold them, and the last checksum.

    A line is complete when it ends in a newline: a torn last line is left out.
    """
    with explaining_disk_errors(path):
        data = path.read_bytes()
    events: list[Event] = []
    whole = data.rfind(b"\n") + 1
    last = ""
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            event = json.loads(line)
            claimed = event.pop("sum")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StockpotError(
                f"{path}: line {number} is not an event of Stockpot's journal: the file is foreign or was edited."
            ) from error
        last = _sum(last, json.dumps(event, sort_keys=True))
        if claimed != last:
            raise StockpotError(f"{path}: line {number} was edited: its checksum does not match. Restore the journal.")
        events.append(event)
    return events, whole, last


_locked_handles: set[int] = set()  # file descriptors of the journals that this process has locked


def _close_locks() -> None:
    for handle in _locked_handles:
        os.close(handle)
    _locked_handles.clear()


@cache
def _close_locks_in_forks() -> None:
    """A forked worker inherits the lock, as flock belongs to the open file, and could outlive its parent with it."""
    os.register_at_fork(after_in_child=_close_locks)


class Journal:
    """Events in order. Each line's `sum` also covers the lines before it, so that an edit is noticed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        self._read()

    def _read(self) -> None:
        self.events, self._length, self._last = _parse(self.path) if self.path.exists() else ([], 0, "")

    def lock(self, shared: bool = False) -> Journal:
        """Claims the journal for this process; raises StockpotError where another process has claimed it.

        A shared lock keeps writers away and lets others read; it changes nothing.
        """
        with explaining_disk_errors(self.path):
            handle = os.open(self.path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                self._read()  # it may have grown since
            except BaseException as error:
                os.close(handle)
                if isinstance(error, BlockingIOError):
                    raise StockpotError(f"{self.path.parent}: another process is working on this run.") from error
                raise
        self._handle = handle
        _close_locks_in_forks()
        _locked_handles.add(handle)
        return self

    def check_place(self) -> None:
        """Raises StockpotError where the locked journal is not at its path any more.

        Called before every write, which would otherwise create a new folder of that name.
        """
        assert self._handle is not None, "needs the lock"
        try:
            same = os.path.samestat(os.fstat(self._handle), self.path.stat())
        except OSError:
            same = False
        if not same:
            raise StockpotError(
                f"{self.path.parent}: the run folder was removed, moved or replaced while this run was working in it; "
                "nothing more was written there. If it was moved, continue there with `stockpot resume`."
            )

    def append(self, event: Event) -> None:
        """Writes one event; when this returns, it is on disk. A failed write leaves the journal as it was."""
        self.check_place()
        assert self._handle is not None, "needs the lock"
        body = json.dumps(event, sort_keys=True, allow_nan=False)
        total = _sum(self._last, body)
        line = (json.dumps({**event, "sum": total}, allow_nan=False) + "\n").encode()
        with explaining_disk_errors(self.path):
            try:
                os.ftruncate(self._handle, self._length)  # cuts off a line that a crash left incomplete
                os.lseek(self._handle, self._length, os.SEEK_SET)
                written = os.write(self._handle, line)
                if written < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._handle)
            except OSError:
                os.ftruncate(self._handle, self._length)
                raise
        self._length += len(line)
        self._last = total
        self.events.append(json.loads(json.dumps(event)))  # as it will be read

    @property
    def digest(self) -> str:
        """The last line's checksum, which covers every line."""
        return self._last

    @overload
    def of(self, kind: Literal["created"]) -> list[Created]: ...
    @overload
    def of(self, kind: Literal["started"]) -> list[Started]: ...
    @overload
    def of(self, kind: Literal["checkpoint"]) -> list[TrainingCheckpoint]: ...
    @overload
    def of(self, kind: Literal["task"]) -> list[TaskDone]: ...
    @overload
    def of(self, kind: Literal["added"]) -> list[Added]: ...
    def of(self, kind: str) -> list[Any]:
        """The events of one kind, in order."""
        return [event for event in self.events if event.get("event") == kind]

    def close(self) -> None:
        """Releases the lock."""
        if self._handle is not None:
            _locked_handles.discard(self._handle)
            os.close(self._handle)
            self._handle = None
