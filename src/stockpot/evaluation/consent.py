"""Whether the user agreed to run the programs that a model writes: `give_*` records it, `has_*` asks for it.

A score that needs it demands it: see `Score.require_consent`.
"""

from __future__ import annotations

import os

# Environment variables, because the worker processes of a comparison inherit them.
RUN_CODE = "STOCKPOT_RUN_CODE"
RUN_CODE_UNSANDBOXED = "STOCKPOT_RUN_CODE_UNSANDBOXED"

WITHOUT_A_SANDBOX = (
    "programs that the model writes can then do what you can do here: read, change and delete your files, stop your "
    "processes, read your tokens and use the network"
)


def give_consent() -> None:
    """Records that the user agrees, for this process and those that it starts."""
    os.environ[RUN_CODE] = "1"


def has_consent() -> bool:
    """Whether the user agreed, with --run-code, --run-code-unsandboxed or one of the environment variables."""
    return os.environ.get(RUN_CODE) == "1" or has_unsandboxed_consent()


def give_unsandboxed_consent() -> None:
    """Records that the user agrees to run them even without a sandbox, for this process and those that it starts."""
    os.environ[RUN_CODE_UNSANDBOXED] = "1"


def has_unsandboxed_consent() -> bool:
    """Whether the user agreed to do without a sandbox, with --run-code-unsandboxed or its environment variable."""
    return os.environ.get(RUN_CODE_UNSANDBOXED) == "1"
