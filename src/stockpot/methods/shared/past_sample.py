"""Ω of a start model, from a sample of what it knows."""

from __future__ import annotations

import torch
from pydantic import Field
from torch.nn import functional

from stockpot.averaging.past_importance import PastImportance
from stockpot.averaging.sfa import SFA
from stockpot.batches.examples import IGNORED, Examples
from stockpot.batches.outputs import evaluation_mode, targets_of
from stockpot.methods.base import Task
from stockpot.seeds import generator
from stockpot.streams.spec import DataSpec
from stockpot.strict import StrictModel


class PastSample(StrictModel):
    """A sample of what the start model knows, in batches as a training would take them."""

    data: DataSpec = Field(description="texts that the start model knows, such as general text")
    steps: int = Field(100, ge=1, description="batches that squared gradients are the mean over")
    batch_size: int = Field(8, ge=1, description="texts a batch; the more, the smaller squares are: as in training")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to it, as in training; 0: they are not")


def sample_importance(task: Task, examples: Examples, sample: PastSample) -> PastImportance:
    """The mean over batches of the squared gradient of the loss, at the weights of the start; they do not change.

    Equation: `Ω = mean_B (∂ loss(B) / ∂θ)²`, of one past task, in eval mode, over batches drawn without replacement
    while there are examples left.
    """
    draws, left = generator(task.seed, "importance"), torch.empty(0, dtype=torch.int64)
    observer = SFA(task.model, beta="auto", importance="none", every=1)
    with evaluation_mode(task.model), torch.enable_grad():
        for step in range(1, sample.steps + 1):
            if len(left) < min(sample.batch_size, len(examples)):
                left = torch.randperm(len(examples), generator=draws)
            chosen, left = left[: sample.batch_size], left[sample.batch_size :]
            batch = examples.__getitems__(chosen.tolist())
            logits = task.logits(task.model, batch)
            targets = targets_of(batch).to(logits.device)
            task.model.zero_grad()
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            functional.cross_entropy(wide, targets, ignore_index=IGNORED).backward()
            if sample.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(task.model.parameters(), sample.max_grad_norm)
            observer.reach(step)
    task.model.zero_grad()
    return observer.importance()
