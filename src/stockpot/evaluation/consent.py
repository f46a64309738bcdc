"""Whether the user agreed to run the programs that a model writes."""

from __future__ import annotations

import os

# Environment variables, so that the workers of a comparison are told, too.
RUN_CODE = "STOCKPOT_RUN_CODE"
RUN_CODE_UNSANDBOXED = "STOCKPOT_RUN_CODE_UNSANDBOXED"

WITHOUT_A_SANDBOX = (
    "programs that the model writes can then do what you can do here: read, change and delete your files, stop your "
    "processes, read your tokens and use the network"
)


def give_consent() -> None:
    """The user agrees, for this process and those that it starts."""
    os.environ[RUN_CODE] = "1"


def has_consent() -> bool:
    """Whether the user agreed, with --run-code, --run-code-unsandboxed or an environment variable."""
    return os.environ.get(RUN_CODE) == "1" or has_unsandboxed_consent()


def give_unsandboxed_consent() -> None:
    """The user agrees to run them even where there is no sandbox, for this process and those that it starts."""
    os.environ[RUN_CODE_UNSANDBOXED] = "1"


def has_unsandboxed_consent() -> bool:
    """Whether the user agreed to do without a sandbox, with --run-code-unsandboxed or the environment variable."""
    return os.environ.get(RUN_CODE_UNSANDBOXED) == "1"
