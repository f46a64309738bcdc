"""The journal of a run: one JSON line an event, appended and synced. What is not in it does not exist."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from stockpot.errors import StockpotError
from stockpot.files import explained

Event = dict[str, Any]


def _sum(previous: str, body: str) -> str:
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()[:16]


def _parse(path: Path) -> tuple[list[Event], int]:
    """The events, and the length in bytes of the lines that hold them; a torn last line is left out."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StockpotError(f"{path}: the journal could not be read: {error.strerror}.") from error
    events: list[Event] = []
    whole = data.rfind(b"\n") + 1  # a line is complete when its newline is there
    previous = ""
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            event = json.loads(line)
            claimed = event.pop("sum")
        except (ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
            raise StockpotError(
                f"{path}: line {number} is not an event of Stockpot's journal: foreign or edited."
            ) from error
        previous_sum = _sum(previous, json.dumps(event, sort_keys=True))
        if claimed != previous_sum:
            raise StockpotError(f"{path}: line {number} was edited: its check sum does not fit. Restore the journal.")
        previous = claimed
        events.append(event)
    return events, whole


class Journal:
    """Events in order. Each line's `sum` covers the lines before it, so an edit shows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events, self._length = _parse(path) if path.exists() else ([], 0)
        self._last = self._last_sum()
        self._handle: int | None = None

    def _last_sum(self) -> str:
        previous = ""
        for event in self.events:
            previous = _sum(previous, json.dumps(event, sort_keys=True))
        return previous

    def lock(self) -> Journal:
        """Claims the journal for this process; raises StockpotError where another one writes it."""
        with explained(self.path):
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._handle)
            self._handle = None
            raise StockpotError(f"{self.path.parent}: another process is working on this run.") from error
        self.events, self._length = _parse(self.path)  # it may have grown while we waited for nothing
        self._last = self._last_sum()
        os.ftruncate(self._handle, self._length)  # a torn line from a crash
        return self

    def append(self, event: Event) -> None:
        """Writes one event; when this returns, it is on the disk. A failed write leaves the journal as it was."""
        assert self._handle is not None, "append needs the lock"
        body = json.dumps(event, sort_keys=True, allow_nan=False)
        total = _sum(self._last, body)
        line = (json.dumps({**event, "sum": total}, allow_nan=False) + "\n").encode()
        with explained(self.path):
            try:
                os.lseek(self._handle, self._length, os.SEEK_SET)
                written = os.write(self._handle, line)
                if written < len(line):
                    raise OSError(28, "No space left on device")
                os.fsync(self._handle)
            except OSError:
                os.ftruncate(self._handle, self._length)
                raise
        self._length += len(line)
        self._last = total
        self.events.append(json.loads(json.dumps(event)))  # as a reader will find it

    def of(self, kind: str) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in self.events if event.get("event") == kind]

    def close(self) -> None:
        """Gives the lock back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Journal:
        return self.lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
