"""A command looks for garbage seldom until it trains, and never goes through what it has imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from stockpot.garbage import seldom_collect, set_imports_aside


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    usual = gc.get_threshold()
    yield
    gc.set_threshold(*usual)


def test_a_process_of_ours_collects_seldom_until_it_trains() -> None:
    usual = gc.get_threshold()
    seldom_collect()
    assert gc.get_threshold()[0] >= 100 * usual[0]
    imported: list[list[object]] = [[]]
    frozen = gc.get_freeze_count()
    set_imports_aside()
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() > frozen
    assert all(value is not imported[0] for value in gc.get_objects())


def test_a_process_of_somebody_elses_is_left_alone() -> None:
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    set_imports_aside()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, frozen)
