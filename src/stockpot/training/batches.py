"""The order of the batches: a pure function of (seed, epoch), so a resumed run sees the same batches."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader

from stockpot.batches.examples import Batch, TrainingData
from stockpot.seeds import generator


def batches_in(examples: int, batch_size: int, drop_last: bool = False) -> int:
    """The batches of an epoch of so many examples."""
    whole, rest = divmod(examples, batch_size)
    return whole + (rest > 0 and not drop_last)


class EpochBatches(BatchSampler):
    """Index batches of one epoch: the new examples and a draw of general ones, shuffled, and draws from the rehearsed.

    General examples are taken in turn from one permutation of them after the other, so that none comes a second time
    before all have come; an epoch takes on where the one before left off.
    """

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
        return batches_in(self.data.epoch, self.batch_size, self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        draws = generator(self.seed, "epoch", self.epoch)
        order = torch.randperm(self.data.epoch, generator=draws)
        if self.data.drawn_general:
            order = torch.cat([torch.arange(self.data.new), self._general()])[order]
        rest = len(self.data.examples) - self.data.new - self.data.general
        many = self.data.rehearsed_per_batch
        for batch in order.split(self.batch_size)[: len(self)]:
            if rest and many:
                drawn = torch.randperm(rest, generator=draws)[:many] + self.data.new
                batch = torch.cat([batch, drawn])  # noqa: PLW2901
            yield batch.tolist()

    def _general(self) -> torch.Tensor:
        """The general examples of this epoch, by their number in all."""
        count, many = self.data.general, self.data.drawn_general
        first = self.epoch * many
        passes = range(first // count, (first + many - 1) // count + 1)
        orders = [torch.randperm(count, generator=generator(self.seed, "mix", number)) for number in passes]
        start = first - passes[0] * count
        return torch.cat(orders)[start : start + many] + len(self.data.examples) - count


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
