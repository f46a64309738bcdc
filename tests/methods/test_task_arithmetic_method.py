"""Task Arithmetic: the start weights and λ times the sum of the task vectors, against training by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from merging_by_hand import chain, parallel, plus, run, total
from toy import LOOPS, assert_close


@pytest.mark.parametrize("loop", LOOPS)
def test_task_arithmetic_adds_the_vectors_of_tasks_that_were_trained_apart(loop: str, tmp_path: Path) -> None:
    learnt, models = run("task_arithmetic", tmp_path, loop, scale=0.3), parallel()
    start = learnt.weights[0]
    vectors = [plus(model, start, -1) for model in models]
    assert_close(learnt.weights[1], models[0])  # the first task is not merged
    assert_close(learnt.weights[2], total(start, vectors[:2], 0.3))
    assert_close(learnt.weights[3], total(start, vectors, 0.3))
    assert_close(run("task_arithmetic", tmp_path / "default").weights[3], total(start, vectors, 0.4))


@pytest.mark.parametrize("loop", LOOPS)
def test_task_arithmetic_over_a_raw_chain_is_plain_fine_tuning_at_lambda_one(loop: str, tmp_path: Path) -> None:
    learnt = run("task_arithmetic", tmp_path, loop, mode="chain", scale=1.0)
    for weights, plain in zip(learnt.weights[1:], chain(), strict=True):
        assert_close(weights, plain, 1e-12)
