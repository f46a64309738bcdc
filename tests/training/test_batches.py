"""The order of the batches is a pure function of (seed, epoch), and every epoch a partition."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy import LOOPS, config, copied, examples, network

from stockpot import methods
from stockpot.batches.examples import TensorExamples, TrainingData
from stockpot.training import dispatch
from stockpot.training.batches import EpochBatches, loader
from stockpot.training.job import Job, planned_steps, total_steps


def data(many: int) -> TrainingData:
    return TrainingData.of(TensorExamples(torch.arange(float(many)).reshape(-1, 1), torch.zeros(many).long()))


def order(many: int, size: int, seed: int, epoch: int, drop: bool = False) -> list[list[int]]:
    batches = EpochBatches(data(many), size, seed, drop)
    batches.set_epoch(epoch)
    return list(batches)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_every_epoch_is_a_partition(many: int, size: int, seed: int, epoch: int, drop: bool) -> None:
    batches = order(many, size, seed, epoch, drop)
    assert len(batches) == len(EpochBatches(data(many), size, seed, drop))
    flat = [index for batch in batches for index in batch]
    assert len(set(flat)) == len(flat)
    if drop:
        assert len(batches) == many // size
        assert all(len(batch) == size for batch in batches)
    else:
        assert sorted(flat) == list(range(many))
        assert all(len(batch) == size for batch in batches[:-1])


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    torch.manual_seed(1)
    first = order(50, 8, 3, 2)
    torch.manual_seed(2)
    assert order(50, 8, 3, 2) == first
    assert order(50, 8, 3, 1) != first
    assert order(50, 8, 4, 2) != first


def test_the_loader_feeds_these_batches_whole_and_draws_nothing_from_torchs_generator() -> None:
    batches = EpochBatches(data(20), 6, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fed = [batch["pixel_values"].flatten().long().tolist() for batch in loader(batches)]
    assert torch.equal(torch.get_rng_state(), before)
    assert fed == list(batches)


class Seen(methods.registry()["sequential"]):
    """Remembers what each micro-batch held."""

    def __init__(self) -> None:
        super().__init__(config("sequential"))
        self.batches: list[list[float]] = []

    def loss(self, loss: Tensor, logits: Tensor, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
        self.batches.append(batch["pixel_values"].flatten(1)[:, 0].tolist())
        return loss


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_trains_on_a_new_order_each_epoch(loop: str, tmp_path: Path) -> None:
    own, method = examples(0, many=20), Seen()
    training = TrainingData.of(own)
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "use_cpu": True}
    dispatch.train(Job(network(), method, training, settings, 7, tmp_path), loop)
    batches, expected = EpochBatches(training, 8, 7), []
    for epoch in range(3):
        batches.set_epoch(epoch)
        expected += [own.__getitems__(indices)["pixel_values"].flatten(1)[:, 0].tolist() for indices in batches]
    assert method.batches == expected


@pytest.mark.parametrize(
    ("many", "size", "accumulation", "epochs", "max_steps", "drop", "steps"),
    [(22, 8, 1, 2, -1, False, 6), (22, 8, 2, 2, -1, False, 4), (22, 8, 4, 1, -1, False, 1),
     (22, 8, 1, 1.5, -1, False, 5), (22, 8, 1, 2, 4, False, 4), (22, 8, 1, 1, 10, False, 10),
     (22, 8, 1, 2, -1, True, 4), (24, 8, 2, 0.5, -1, True, 1)],
)  # fmt: skip
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_takes_as_many_steps_as_were_planned(
    many: int,
    size: int,
    accumulation: int,
    epochs: float,
    max_steps: int,
    drop: bool,
    steps: int,
    loop: str,
    tmp_path: Path,
) -> None:
    settings = {
        "num_train_epochs": epochs, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation,
        "max_steps": max_steps, "dataloader_drop_last": drop, "use_cpu": True,
    }  # fmt: skip
    taken: list[tuple[int, int]] = []
    job = Job(network(), methods.build(config("sequential")), TrainingData.of(examples(0, many)), settings, 0, tmp_path)
    job.on_step = lambda step, total: taken.append((step, total))
    before = copied(job.model)
    assert planned_steps(job) == steps
    dispatch.train(job, loop)
    assert taken == [(step, steps) for step in range(1, steps + 1)]
    assert any(not torch.equal(tensor, before[name]) for name, tensor in job.model.state_dict().items())


@given(st.integers(1, 100), st.integers(1, 10), st.integers(1, 5))
def test_total_steps_counts_optimizer_steps(batches: int, accumulation: int, epochs: int) -> None:
    assert total_steps(batches, accumulation, epochs, -1) == epochs * -(-batches // accumulation)
    assert total_steps(batches, accumulation, epochs, 7) == 7


def test_a_worker_outlives_a_signal_to_its_group() -> None:
    numbered = TensorExamples(torch.arange(64.0)[:, None], torch.arange(64))
    batches = loader(EpochBatches(TrainingData.of(numbered), 4, seed=0), num_workers=1)
    iterator: Any = iter(batches)
    first = next(iterator)
    for worker in iterator._workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    rest = list(iterator)
    seen = torch.cat([batch["labels"] for batch in [first, *rest]])
    assert sorted(seen.tolist()) == list(range(64))
