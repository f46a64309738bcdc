"""The libraries' own bars and advice, which would drown ours; what they still say cannot steer the terminal."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from stockpot.printing import escape_controls

_written = warnings.formatwarning


class _Record(logging.LogRecord):
    """A message of a library's, in which names from files of others may stand."""

    def getMessage(self) -> str:  # noqa: N802 - as logging has it
        return escape_controls(super().getMessage())


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return escape_controls(_written(message, category, filename, lineno, line))


def silence_libraries() -> None:
    """Turns them off."""
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = _format_warning
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT asks by the older name
    theirs.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
