"""Running a program that a model wrote.

In the sandbox (Linux, with bubblewrap) it can read the system's and Python's libraries, and nothing else: not the home
folder, not the run folder, not the environment. It can write only to its own folder and /tmp, which are limited in size
and gone afterwards. It has no network, sees no other process and can start none, so everything ends with it, after
`seconds` at the latest; it may start threads. It may turn into a shell by exec, which is confined in the same way.
Address space, processor time and the size of files are limited. The tests attack each of these.

Without the sandbox, which needs the user's consent, the kernel limits each process's address space, processor time and
size of a file, and the process and its group are killed after `seconds`; the environment is empty. **Nothing else is
limited**: the program can do whatever the user can.

What neither prevents: a malicious program can find the key that reports a pass in the memory of its own process, and
an exploit of the kernel escapes the sandbox. Evaluate models that you suspect of that on a disposable machine.
"""

from __future__ import annotations

import os

from stockpot.errors import StockpotError
from stockpot.evaluation.consent import WITHOUT_A_SANDBOX, has_unsandboxed_consent
from stockpot.evaluation.language.program import Limits, run_program
from stockpot.evaluation.language.sandbox_check import honest_fault, obstacle
from stockpot.spelling import consenting

__all__ = ["Limits", "confined", "passes"]


def passes(program: str, limits: Limits | None = None) -> bool:
    """Whether the Python program runs to its end without an error, within the limits; see the module's docstring.

    Args:
        program: Python source code; it runs in a process of its own, as `__main__`.
        limits: seconds, and bytes of memory and files; `Limits()` by default.

    Returns:
        True where the last line was reached. Exiting early is not a pass, whatever the exit code.

    Raises:
        StockpotError: where programs cannot be run: there is no sandbox and no consent to do without one, or this
            system has no limits either.
    """
    outcome = run_program(program, limits or Limits(), confined())
    if not outcome.started:
        raise StockpotError(f"pass@k: a program could not be started: {outcome.error or f'exit code {outcome.code}'}.")
    return outcome.passed


def confined() -> bool:
    """Whether programs run in the sandbox, rather than with limits alone.

    Raises StockpotError where the sandbox does not work here and the user did not agree to do without it, or cannot.
    """
    if os.name != "posix":
        raise StockpotError("pass@k needs Linux or macOS: this system cannot limit what a program uses.")
    fault = obstacle()
    if fault is None:
        return True
    if not has_unsandboxed_consent():
        raise StockpotError(
            f"no sandbox for the programs that the model writes: {fault}. Install bubblewrap 0.7 or newer (apt-get "
            "install bubblewrap), if the system lets you use namespaces, or "
            f"{consenting('run_code_unsandboxed')}: {WITHOUT_A_SANDBOX}."
        )
    if (fault := honest_fault(confined=False)) is not None:
        raise StockpotError(f"the programs that the model writes cannot be run: {fault}.")
    return False
