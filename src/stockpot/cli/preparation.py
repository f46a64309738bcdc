"""What every command does before it trains or evaluates."""

from __future__ import annotations

from stockpot.cli.launchers import refuse_launchers
from stockpot.library_output import silence_libraries


def prepare_command(run_code: bool, run_code_unsandboxed: bool, *, shares: bool = False) -> None:
    """Records the consent to run code, refuses launchers (see `refuse_launchers` for `shares`), silences libraries."""
    _record_consent(run_code, run_code_unsandboxed)
    refuse_launchers(shares=shares)
    silence_libraries()


def _record_consent(run_code: bool, run_code_unsandboxed: bool) -> None:
    """Notes that the user agrees to run the programs that a model writes, for this process and those it starts.

    The workers of a comparison, and Ray's, are processes of their own: they inherit the environment, so that is where
    the consent is kept. A user may set the same variables instead of the options.
    """
    if run_code:
        from stockpot.evaluation.consent import give_consent

        give_consent()
    if run_code_unsandboxed:
        from stockpot.evaluation.consent import give_unsandboxed_consent

        give_unsandboxed_consent()
