"""The greedy soup: at least the best model, and nothing that makes it worse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_same, loaded, saved, tuned
from hypothesis import given
from hypothesis import strategies as st

import stockpot
from stockpot import StockpotError
from stockpot.merging.greedy_soup import greedy_soup

NUMBERS = st.lists(st.integers(-20, 20), min_size=1, max_size=6)


@given(models=NUMBERS, target=st.integers(-20, 20))
def test_it_is_never_worse_than_the_best_model(models: list[int], target: int) -> None:
    def score(members: Sequence[int]) -> float:
        return -((sum(models[number] for number in members) / len(members) - target) ** 2)

    soup = greedy_soup(len(models), score)
    assert soup.score == score(soup.members)
    assert soup.score >= max(score([number]) for number in range(len(models)))
    assert len(soup.tried) == 2 * len(models) - 1
    # Every model that was left out would have lowered the score when it was tried.
    order = sorted(range(len(models)), key=lambda number: -score([number]))
    kept: list[int] = []
    for number in order:
        if number in soup.members:
            kept.append(number)
        else:
            assert score([*kept, number]) < score(kept)
    assert tuple(kept) == soup.members


@pytest.mark.parametrize("on_disk", [False, True])
def test_models_are_merged_scored_and_kept(on_disk: bool, tmp_path: Path) -> None:
    states = [tuned(1) | {"model.scale": torch.tensor(value)} for value in (1.0, 3.0, 9.0)]
    seen: list[float] = []

    def score(model: Any) -> float:
        state = loaded(model) if on_disk else model
        seen.append(float(state["model.scale"]))
        return -abs(seen[-1] - 2.0)

    models: list[Any] = [saved(tmp_path / str(number), state) for number, state in enumerate(states)]
    if on_disk:
        result = loaded(stockpot.merge("greedy_soup", models, output=tmp_path / "out", score=score))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "out"]
    else:
        result = stockpot.merge("greedy_soup", states, score=score)
    assert seen == [1.0, 3.0, 9.0, 2.0, pytest.approx(13 / 3)]
    assert_same(result, stockpot.merge("linear", states[:2]))
    with pytest.raises(StockpotError, match="needs score="):
        stockpot.merge("greedy_soup", states)


def test_copies_all_come_in() -> None:
    assert greedy_soup(3, lambda members: 0.5).members == (0, 1, 2)


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(StockpotError, match="is not a number"):
        greedy_soup(2, lambda members: float("nan"))
