"""How many examples and tokens a task trains on: from the order of its batches, without looking into them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from stockpot.batches.examples import TrainingData
from stockpot.training.batches import EpochBatches


@dataclass(frozen=True)
class Seen:
    """What the model is given in a task, each example as often as it comes."""

    examples: int
    tokens: int  # of texts, without padding; 0 for images


def seen_in(data: TrainingData, args: Any, seed: int, steps: int) -> Seen:
    """What `steps` optimizer steps see of the data; `args` are TrainingArguments.

    Epochs of new examples alone are counted, others are drawn as training draws them.
    """
    batches = EpochBatches(data, args.train_batch_size, seed, args.dataloader_drop_last)
    lengths = data.examples.lengths
    per_epoch = math.ceil(len(batches) / args.gradient_accumulation_steps)
    whole = len(data.examples) == data.new and not args.dataloader_drop_last
    examples = tokens = epoch = 0
    while steps > 0:
        if whole and steps >= per_epoch:
            times = steps // per_epoch
            examples += times * data.new
            tokens += times * (0 if lengths is None else int(lengths.sum()))
            steps, epoch = steps - times * per_epoch, epoch + times
            continue
        batches.set_epoch(epoch)
        drawn = [index for batch in list(batches)[: steps * args.gradient_accumulation_steps] for index in batch]
        examples += len(drawn)
        tokens += 0 if lengths is None else int(lengths[torch.tensor(drawn)].sum())
        steps, epoch = steps - per_epoch, epoch + 1
    return Seen(examples, tokens)
