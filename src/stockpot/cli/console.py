"""The terminal: everything that the commands print passes through here."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stockpot.errors import StockpotError
from stockpot.printing import SPELT, escape_controls

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 110  # columns of a table where the output is not a terminal


def fail(message: str) -> None:
    """One line on stderr, in red where the terminal has colours."""
    text = escape_controls(" ".join(message.split()), lines=False)
    with contextlib.suppress(OSError, ValueError):  # there is nowhere left to report it
        red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
        sys.stderr.write(f"{red}Error:{plain} {text}\n")
        sys.stderr.flush()


def say(message: str = "") -> None:
    """One line on stdout."""
    with writing():
        sys.stdout.write(f"{escape_controls(message)}\n")
        sys.stdout.flush()


def note(message: str) -> None:
    """One line on stderr, for progress and logs."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{escape_controls(message, lines=False)}\n")


def show(table: Any) -> None:
    """A rich table on stdout; square brackets in its texts are not markup."""
    with writing():
        console(markup=False, width=None if sys.stdout.isatty() else _WIDTH).print(table)


def show_wrapped(text: Any) -> None:
    """A rich text on stdout, wrapped between words at the terminal's width."""
    with writing():
        console(markup=False).print(text)


def console(markup: bool = True, width: int | None = None) -> Console:
    """A rich console on stdout, which escapes control characters in text that comes from files of others."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Harmless(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=escape_controls(segment.text))

    return Harmless(width=width, markup=markup, emoji=False, highlight=not markup)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns an output that cannot be written into a StockpotError; a reader that went away is not a mistake."""
    try:
        yield
    except BrokenPipeError:
        give_up_output()
        raise
    except OSError as error:
        give_up_output()
        raise StockpotError(
            f"the output could not be written: {error.strerror}; what was finished before is safe."
        ) from error


def give_up_output() -> None:
    """Sends what is still to be written to stdout nowhere, so that exiting does not fail as well."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def prepare_streams() -> bool:
    """Lets stdout and stderr spell characters that their encoding lacks; returns whether there is a stdout.

    A stream that was closed is opened on /dev/null: otherwise the next file that is opened would get its number, and
    with it what is printed.
    """
    has_stdout = sys.stdout is not None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=SPELT)
    return has_stdout
