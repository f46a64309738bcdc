"""The greedy soup: at least the best model, and nothing that makes it worse."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot import StockpotError
from stockpot.merging.greedy import greedy_soup

NUMBERS = st.lists(st.integers(-20, 20), min_size=1, max_size=6)


@given(models=NUMBERS, target=st.integers(-20, 20))
def test_it_is_never_worse_than_the_best_model(models: list[int], target: int) -> None:
    def score(members: Sequence[int]) -> float:
        return -((sum(models[number] for number in members) / len(members) - target) ** 2)

    soup = greedy_soup(len(models), score)
    assert soup.score == score(soup.members)
    assert soup.score >= max(score([number]) for number in range(len(models)))
    assert len(soup.tried) == 2 * len(models) - 1
    # Whatever was left out would have made worse what there was when its turn came.
    order = sorted(range(len(models)), key=lambda number: -score([number]))
    kept: list[int] = []
    for number in order:
        if number in soup.members:
            kept.append(number)
        else:
            assert score([*kept, number]) < score(kept)
    assert tuple(kept) == soup.members


def test_copies_all_come_in() -> None:
    assert greedy_soup(3, lambda members: 0.5).members == (0, 1, 2)


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(StockpotError, match="is not a number"):
        greedy_soup(2, lambda members: float("nan"))
