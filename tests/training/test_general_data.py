"""General data in a task: an exact fraction of every epoch, drawn in turn, the same after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import LOOPS, SETTINGS, config, copied, differ, examples, network

from stockpot.batches.examples import Mixture, TensorExamples, TrainingData
from stockpot.methods import build
from stockpot.seeds import generator
from stockpot.training import dispatch
from stockpot.training.batches import EpochBatches
from stockpot.training.job import Interrupted, Job, planned_steps


def numbered(start: int, many: int) -> TensorExamples:
    return TensorExamples(torch.arange(float(start), start + many).reshape(-1, 1), torch.zeros(many).long())


def epoch(data: TrainingData, number: int, size: int = 7) -> list[int]:
    batches = EpochBatches(data, size, 5)
    batches.set_epoch(number)
    return [index for batch in batches for index in batch]


@given(st.integers(1, 50), st.integers(1, 30), st.floats(0.01, 0.9), st.integers(0, 5))
def test_an_epoch_has_every_new_example_and_the_fraction_of_general_ones(
    new: int, general: int, fraction: float, number: int
) -> None:
    data = TrainingData.of(numbered(0, new)).mixed_with(Mixture(numbered(100, general), fraction))
    flat = epoch(data, number)
    drawn = [index for index in flat if index >= new]
    assert sorted(index for index in flat if index < new) == list(range(new))
    assert len(drawn) == max(1, int(new * fraction / (1 - fraction) + 0.5)) == data.drawn_general
    assert len(EpochBatches(data, 7, 5)) == -(-len(flat) // 7)
    assert all(new <= index < new + general for index in drawn)
    values = data.examples.__getitems__(drawn)["pixel_values"].flatten()
    assert bool((values >= 100).all())


def test_no_general_example_comes_again_before_all_have_come() -> None:
    data = TrainingData.of(numbered(0, 30)).mixed_with(Mixture(numbered(100, 25), 0.25))  # ten an epoch
    drawn = [index for number in range(5) for index in epoch(data, number) if index >= 30]
    assert len(drawn) == 50
    assert {index: drawn.count(index) for index in set(drawn)} == dict.fromkeys(range(30, 55), 2)
    assert sorted(epoch(data, 0)) != sorted(epoch(data, 1))


def test_general_examples_are_apart_from_those_that_are_rehearsed_in_every_batch() -> None:
    rehearsed = TrainingData(numbered(0, 26), new=20, rehearsed_per_batch=2)
    data = rehearsed.mixed_with(Mixture(numbered(100, 10), 0.2))
    flat = epoch(data, 0, size=5)
    assert len([index for index in flat if index < 20]) == 20
    assert len([index for index in flat if 20 <= index < 26]) == 2 * 5  # ⌈25 / 5⌉ batches
    assert len([index for index in flat if index >= 26]) == 5


def test_without_general_data_the_order_is_what_it_was() -> None:
    plain = TrainingData.of(numbered(0, 20))
    assert epoch(plain, 2) == torch.randperm(20, generator=generator(5, "epoch", 2)).tolist()


@pytest.mark.parametrize("loop", LOOPS)
def test_an_interrupted_task_goes_on_with_the_same_draws(loop: str, tmp_path: Path) -> None:
    def job(folder: str, **more: Any) -> Job:
        data = TrainingData.of(examples(0)).mixed_with(Mixture(examples(1, 9), 0.3))
        torch.manual_seed(3)
        return Job(network(0.3), build(config("sequential")), data, SETTINGS, 3, tmp_path / folder, **more)

    whole = job("whole")
    assert planned_steps(whole) == 2 * 4  # ⌈(22 + 9) / 8⌉ batches, two epochs
    torch.manual_seed(9)
    dispatch.train(whole, loop)
    broken, saved = job("broken"), []
    broken.on_checkpoint = lambda step, folder: saved.append(folder)

    def look(step: int, total: int) -> None:
        broken.stop.requested = step == 6

    broken.on_step = look
    torch.manual_seed(9)
    with pytest.raises(Interrupted):
        dispatch.train(broken, loop)
    again = job("again", resume_from=saved[-1])
    dispatch.train(again, loop)
    assert not differ(copied(again.model), copied(whole.model))
