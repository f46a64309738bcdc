"""The order of the batches: a pure function of (seed, epoch), so a resumed run sees the same batches."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader

from stockpot.batches.examples import Batch, TrainingData
from stockpot.seeds import generator


class EpochBatches(BatchSampler):
    """Index batches of one epoch: a fresh permutation of the new examples, and draws from the rehearsed ones."""

    def __init__(self, data: TrainingData, batch_size: int, seed: int, drop_last: bool = False) -> None:
        self.data = data
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.epoch = 0
        # Accelerate looks for set_epoch on `batch_sampler.sampler`, at every depth of wrapping.
        self.sampler: Any = self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch (from 0) whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.data.new, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        draws = generator(self.seed, "epoch", self.epoch)
        order = torch.randperm(self.data.new, generator=draws)
        rest, many = len(self.data.examples) - self.data.new, self.data.rehearsed_per_batch
        for batch in order.split(self.batch_size)[: len(self)]:
            if rest and many:
                drawn = torch.randperm(rest, generator=draws)[:many] + self.data.new
                batch = torch.cat([batch, drawn])  # noqa: PLW2901
            yield batch.tolist()


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_stopping_to_the_parent(worker: int) -> None:
    # SIGTERM and Ctrl-C often go to the whole process group. A worker that died of one would fail the step that the
    # parent still wants to finish.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def loader(batches: EpochBatches, **options: Any) -> DataLoader[Batch]:
    """A DataLoader that fetches whole batches: `Examples.__getitems__` is called once for each.

    It draws its workers' seeds from a generator of its own, so dropout draws the same numbers as without workers.
    """
    draws = generator(batches.seed, "loader")
    examples: Any = batches.data.examples
    return DataLoader(
        examples,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        generator=draws,
        worker_init_fn=_leave_stopping_to_the_parent,
        **options,
    )
