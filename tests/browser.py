"""Chromium without a window, for the tests that look at pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
REQUIRED = os.environ.get("STOCKPOT_BROWSER_REQUIRED") == "1"


@contextmanager
def launched_chromium() -> Iterator[Any]:
    """Playwright's browser; where it is missing the tests are skipped, or fail if they must not be."""
    if CHROMIUM is None and not REQUIRED:
        pytest.skip("Chromium is not installed")
    if not REQUIRED:
        pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "STOCKPOT_BROWSER_REQUIRED is set, and there is no Chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()
