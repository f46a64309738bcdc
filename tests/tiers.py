"""Which cases of a family run by default, and which only under `make test-thorough`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def _commit() -> int:
    """The commit's hash as a number: every commit draws other cases, and all workers draw the same ones."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout, 16)
    except (OSError, subprocess.CalledProcessError):  # a source archive, or no git
        return 0


def sample(cases: Sequence[Any]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: all cases, of which the first, the middle, the last and one drawn by
    the commit run by default. A case with several arguments is a tuple."""
    last = len(cases) - 1
    chosen = {0, last // 2, last, _commit() % len(cases)}
    return [case if number in chosen else _thorough(case) for number, case in enumerate(cases)]


def crossed(rows: Iterable[Any], columns: Sequence[Any]) -> list[Any]:
    """All pairs, as parameters of two arguments: each row with one of the columns by default, in turn, and the commit
    draws which column comes first."""
    return [
        (row, column) if (number + _commit()) % len(columns) == place else _thorough((row, column))
        for number, row in enumerate(rows)
        for place, column in enumerate(columns)
    ]


def _thorough(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough)
