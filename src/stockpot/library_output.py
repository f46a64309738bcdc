"""Turns off the libraries' progress bars and advice, which would bury ours, and escapes what they still print."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from stockpot.printing import escape_controls

_format = warnings.formatwarning


class _Record(logging.LogRecord):
    """A library's message, which may contain names from untrusted files."""

    def getMessage(self) -> str:  # noqa: N802 - as logging has it
        return escape_controls(super().getMessage())


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return escape_controls(_format(message, category, filename, lineno, line))


def silence_libraries() -> None:
    """Turns off progress bars, advice and needless warnings of Transformers, datasets, PEFT and bitsandbytes."""
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = _format_warning
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at each layer that 8 bits compute in fp16
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT reads the older name
    transformers_logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
