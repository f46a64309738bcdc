"""The one error that users' mistakes raise, and "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StockpotError(ValueError):
    """A mistake that the user can fix: what was wrong, where, and what to do, in one line.

    The command line prints it without a traceback and exits with code 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known word, else the empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
