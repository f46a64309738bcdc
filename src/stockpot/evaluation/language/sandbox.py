"""Running a program that a model wrote.

In the sandbox (Linux, with bubblewrap) it reads the system's and Python's libraries, and nothing else: not home, not
the run's folder, not the environment. It writes to its own folder and /tmp alone, which hold a limited number of bytes
and are gone afterwards. It has no network, sees no other process and starts none, so that everything dies with it, in
`seconds` at the latest; threads it may start. One may turn it into a shell, with as little around it. Address space,
processor time and the size of files are limited. The tests attack each of these.

Without the sandbox, which needs the user's consent, the kernel limits each process's address space, processor time and
size of a file, and the process and its group are killed after `seconds`; the environment is empty. **Nothing else is
limited**: the program can do whatever the user can.

What holds in neither: a program that means to can find what is said of one that passes, in the memory of its own
process; and whoever finds a fault in the kernel is out. Evaluate models that you suspect of that on a machine that you
can do without.
"""

from __future__ import annotations

import os

from stockpot.errors import StockpotError
from stockpot.evaluation.consent import WITHOUT_A_SANDBOX, has_unsandboxed_consent
from stockpot.evaluation.language.child import Limits, run_program
from stockpot.evaluation.language.escape import honest_fault, obstacle

__all__ = ["Limits", "confined", "passes"]


def passes(program: str, limits: Limits | None = None) -> bool:
    """Whether the Python program runs to its end without an error, within the limits; see the module's promise.

    Raises StockpotError where programs cannot be run: no sandbox and no consent to do without, or no limits either.
    """
    outcome = run_program(program, limits or Limits(), confined())
    if not outcome.started:
        raise StockpotError(f"pass@k: a program could not be started: {outcome.error or f'exit code {outcome.code}'}.")
    return outcome.passed


def confined() -> bool:
    """Whether programs are run in the sandbox, rather than with limits alone.

    Raises StockpotError where it does not work here and the user did not agree to do without, or cannot.
    """
    if os.name != "posix":
        raise StockpotError("pass@k needs Linux or macOS: this system cannot limit what a program takes.")
    fault = obstacle()
    if fault is None:
        return True
    if not has_unsandboxed_consent():
        raise StockpotError(
            f"no sandbox for the programs that the model writes: {fault}. Install bubblewrap 0.7 or newer (apt-get "
            "install bubblewrap) where the system lets you use namespaces, or add --run-code-unsandboxed to the "
            f"command: {WITHOUT_A_SANDBOX}."
        )
    if (wrong := honest_fault(confined=False)) is not None:
        raise StockpotError(f"the programs that the model writes cannot be run: {wrong}.")
    return False
