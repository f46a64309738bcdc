"""What the tests of merging share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge syncs every file. That matters when the power fails, which no test can show; it takes most of their time
    on a busy disk. Tests of what a failing sync does replace `os.fsync` themselves.
    """
    monkeypatch.setattr(os, "fsync", lambda handle: None)
