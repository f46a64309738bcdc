"""The libraries' own bars and advice, which would drown ours."""

from __future__ import annotations

import os
import sys
import warnings


def quiet() -> None:
    """Turns them off."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT asks by the older name
    logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
