"""Whether the user agreed to run the programs that a model writes."""

from __future__ import annotations

import os

RUN_CODE = "STOCKPOT_RUN_CODE"  # an environment variable, so that the workers of a comparison are told, too


def consent() -> None:
    """The user agrees, for this process and those that it starts."""
    os.environ[RUN_CODE] = "1"


def consented() -> bool:
    """Whether the user agreed, with --run-code or the environment variable."""
    return os.environ.get(RUN_CODE) == "1"
