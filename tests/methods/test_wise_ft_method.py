"""WiSE-FT: one average with the previous weights, when a task is learnt."""

from __future__ import annotations

import pytest
from toy import LOOPS, STEPS, Train, assert_close, averaged, by_hand, examples, seed

from stockpot.batches.examples import TrainingData


@pytest.mark.parametrize("loop", LOOPS)
def test_it_is_what_its_equation_says(loop: str, train: Train) -> None:
    """α weighs the new weights: with α = 0.6 the anchor, the weights after task 1, has 0.4."""
    _, one, two = train("wise_ft", loop, {"alpha": 0.6}).weights
    after = averaged(one, 0.4, [STEPS])
    assert_close(two, by_hand(one, TrainingData.of(examples(1)), seed(1), after))
