"""The one error that users' mistakes raise, and "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class StockpotError(ValueError):
    """A mistake that the user can fix: what was wrong, where, and what to do, in one line.

    The command line prints it without a traceback and exits with code 2.
    """


class RecipeMistake(StockpotError):  # noqa: N818 - what it is, in the words of the reader
    """A mistake in what the user wrote, at a place: keys, and numbers of list entries."""

    def __init__(self, message: str, place: Sequence[str | int]) -> None:
        super().__init__(message)
        self.place = tuple(place)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known word, else the empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
