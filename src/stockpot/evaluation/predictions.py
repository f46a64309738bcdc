"""What a classifier answers to the examples of one part, and how often each answer was given to each class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.batches.outputs import evaluation_mode, logits_of, moved_to

AnswerCounts = list[list[int]]  # [row of the class, row answered, examples], without pairs that never occurred


class Predictions(NamedTuple):
    """One row of the output layer for each example, both (N,) int64 on the CPU."""

    labels: Tensor  # of its class
    answers: Tensor  # of the highest logit

    @property
    def accuracy(self) -> float:
        """The fraction of examples that are answered with their class."""
        return int((self.labels == self.answers).sum()) / len(self.labels)

    def counts(self) -> AnswerCounts:
        """How many examples of a class were given an answer, in their order: a sparse confusion matrix."""
        pairs, examples = torch.stack([self.labels, self.answers], 1).unique(dim=0, return_counts=True)
        return torch.cat([pairs, examples[:, None]], 1).tolist()


@torch.no_grad()
def predict(model: nn.Module, examples: Examples, candidates: Tensor, batch_size: int) -> Predictions:
    """The highest logit of each example among the candidate rows, (rows,) of bool.

    A label that the model has no row for yet is never answered. Every module's mode is restored.
    """
    excluded = ~candidates.to(next(model.parameters()).device)
    answers = []
    with evaluation_mode(model):
        for start in range(0, len(examples), batch_size):
            batch = moved_to(model, examples.__getitems__(range(start, min(start + batch_size, len(examples)))))
            answers.append(logits_of(model, batch).masked_fill(excluded, float("-inf")).argmax(dim=-1))
    return Predictions(examples.labels, torch.cat(answers).cpu())
