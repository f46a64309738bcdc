"""Sequential fine-tuning: AdamW on task after task, written out in ten lines of torch."""

from __future__ import annotations

import pytest
from toy import LOOPS, Train, assert_close, by_hand, examples, seed

from stockpot.batches.examples import TrainingData


@pytest.mark.parametrize("loop", LOOPS)
def test_it_is_what_its_equation_says(loop: str, train: Train) -> None:
    start, one, two = train("sequential", loop, {}).weights
    assert_close(one, by_hand(start, TrainingData.of(examples(0)), seed(0)))
    assert_close(two, by_hand(one, TrainingData.of(examples(1)), seed(1)))
