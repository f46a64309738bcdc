"""MAS: the penalty in closed form, on importances taken at each task's own weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import LOOPS, assert_close, by_hand, config, examples, held, learn, seed, standing_at

from stockpot.batches.examples import TrainingData
from stockpot.batches.outputs import logits_of
from stockpot.importance.sensitivity import sensitivity


@pytest.mark.parametrize("loop", LOOPS)
def test_it_holds_weights_as_its_equation_says(loop: str, tmp_path: Path) -> None:
    tasks = [examples(0), examples(1), examples(2)]
    learnt = learn(config("mas", strength=2.0), loop, tmp_path, tasks=tasks)
    one, two = learnt.weights[1], learnt.weights[2]
    first, second = (
        sensitivity(standing_at(weights), task, logits=logits_of)
        for weights, task in ((one, tasks[0]), (two, tasks[1]))
    )
    assert_close(two, by_hand(one, TrainingData.of(tasks[1]), seed(1), extra=held((2.0, first, one))), 1e-10)
    both = {name: first[name] + second[name] for name in first}
    assert_close(
        learnt.weights[3], by_hand(two, TrainingData.of(tasks[2]), seed(2), extra=held((2.0, both, two))), 1e-10
    )
