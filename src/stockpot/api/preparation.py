"""What every call does before it trains or evaluates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from stockpot.api.launchers import refuse_launchers
from stockpot.library_output import silence_libraries
from stockpot.spelling import spelt_for_python


@contextmanager
def prepared(run_code: bool, run_code_unsandboxed: bool, *, shares: bool = False) -> Iterator[None]:
    """Refuses launchers (see `refuse_launchers` for `shares`), silences libraries, and records the consent to run code.

    The workers of a comparison, and Ray's, are processes of their own: they inherit the environment, so that is where
    the consent is kept, and it ends with the block. A user may set the same variables instead.
    """
    from stockpot.evaluation.consent import RUN_CODE, RUN_CODE_UNSANDBOXED, give_consent, give_unsandboxed_consent

    before = {name: os.environ.get(name) for name in (RUN_CODE, RUN_CODE_UNSANDBOXED)}
    try:
        if run_code:
            give_consent()
        if run_code_unsandboxed:
            give_unsandboxed_consent()
        refuse_launchers(shares=shares)
        silence_libraries()
        with spelt_for_python():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
