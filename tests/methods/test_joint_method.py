"""Joint training: from the start model, on the union of all tasks so far."""

from __future__ import annotations

import pytest
from toy import LOOPS, Train, assert_close, by_hand, config, examples, seed

from stockpot.batches.examples import TrainingData, concat


@pytest.mark.parametrize("loop", LOOPS)
def test_it_is_what_its_equation_says(loop: str, train: Train) -> None:
    start, one, two = train("joint", loop, {}).weights
    assert_close(one, by_hand(start, TrainingData.of(examples(0)), seed(0)))
    assert_close(two, by_hand(start, TrainingData.of(concat([examples(0), examples(1)])), seed(1)))


def test_every_task_starts_from_the_start_model() -> None:
    assert config("joint").starts_from == "pretrained"
