"""When Python looks for garbage. In a command's process it looks rarely while modules are imported: they leave none,
and looking for it takes two of the ten seconds in which a small run imports, trains and reports."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_SELDOM = 1_000_000  # objects that are new since Python last looked; imports make one to two million


def seldom_collect() -> None:
    """For a process that is all ours: collects seldom, until training starts."""
    gc.set_threshold(_SELDOM, *_USUAL[1:])


def set_imports_aside() -> None:
    """Collects as usual again, if `seldom_collect` was called, but never goes through what has been imported: the
    Trainer asks for a full collection whenever it starts."""
    if gc.get_threshold()[0] == _SELDOM:
        gc.freeze()
        gc.set_threshold(*_USUAL)
