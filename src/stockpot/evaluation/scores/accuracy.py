"""Accuracy of a classifier on a task's test examples."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.batches.outputs import evaluation_mode, logits_of, moved_to
from stockpot.evaluation.scores.base import Score, Subject, Suits
from stockpot.streams.text.part import TextPart


class Accuracy(Score):
    """The fraction of examples whose label has the highest logit."""

    suits: ClassVar[Suits] = "classifier"

    name: Literal["accuracy"] = "accuracy"

    def measure(self, subject: Subject) -> float:
        """`accuracy` over the subject's candidate rows."""
        if isinstance(subject.part, TextPart) or subject.candidates is None:
            raise self.unsuited(subject, "only classifiers have an accuracy; try token_accuracy")
        return accuracy(subject.model, subject.part, subject.candidates, subject.batch_size)


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, candidates: Tensor, batch_size: int) -> float:
    """The fraction of examples whose label is the highest logit among the candidate rows, (rows,) of bool.

    A label that the model has no row for yet counts as missed. Every module's mode is restored.
    """
    excluded = ~candidates.to(next(model.parameters()).device)
    hits = 0
    with evaluation_mode(model):
        for start in range(0, len(examples), batch_size):
            batch = moved_to(model, examples.__getitems__(range(start, min(start + batch_size, len(examples)))))
            predicted = logits_of(model, batch).masked_fill(excluded, float("-inf")).argmax(dim=-1)
            hits += int((predicted == batch["labels"]).sum())
    return hits / len(examples)
