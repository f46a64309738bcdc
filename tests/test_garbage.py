"""A command looks for garbage seldom until it trains, and never goes through what it has imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from stockpot import garbage
from stockpot.garbage import seldom_collect, set_imports_aside

USUAL = (700, 10, 10)


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = gc.get_threshold()  # a command that a test called may have left another
    gc.set_threshold(*USUAL)
    monkeypatch.setattr(garbage, "_USUAL", USUAL)
    yield
    gc.set_threshold(*before)


def test_a_process_of_ours_collects_seldom_until_it_trains() -> None:
    seldom_collect()
    assert gc.get_threshold()[0] >= 100 * USUAL[0]
    imported: list[list[object]] = [[]]
    frozen = gc.get_freeze_count()
    set_imports_aside()
    assert gc.get_threshold() == USUAL
    assert gc.get_freeze_count() > frozen
    assert all(value is not imported[0] for value in gc.get_objects())


def test_a_process_of_somebody_elses_is_left_alone() -> None:
    frozen = gc.get_freeze_count()
    set_imports_aside()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (USUAL, frozen)
