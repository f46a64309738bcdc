"""Words for the terminal."""

from __future__ import annotations

import sys
from typing import Any


def fail(message: str) -> None:
    """One line on stderr, in red where the terminal has colours."""
    text = " ".join(message.split())
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{red}Error:{plain} {text}\n")


def say(message: str = "") -> None:
    """One line on stdout."""
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


def show(table: Any) -> None:
    """A rich table on stdout; 100 columns where the output is no terminal."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print(table)
