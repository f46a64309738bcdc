"""What a classifier answers to the examples of one part, and how often each answer was given to each class."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from stockpot.batches.examples import Examples
from stockpot.batches.outputs import evaluation_mode, logits_of, moved_to


class AnswerCounts(TypedDict):
    """A confusion matrix without its zeros. What is wrong is one text, which a journal of many tasks reads fast."""

    rows: list[int]  # of the classes that have examples
    examples: list[int]  # of each
    correct: list[int]  # of them, those answered with their class
    wrong: str  # of every wrong answer "row of the class, row answered, examples": `0 7 12,3 1 2`


class Predictions(NamedTuple):
    """One row of the output layer for each example, both (N,) int64 on the CPU."""

    labels: Tensor  # of its class
    answers: Tensor  # of the highest logit

    @property
    def accuracy(self) -> float:
        """The fraction of examples that are answered with their class."""
        return int((self.labels == self.answers).sum()) / len(self.labels)

    def counts(self) -> AnswerCounts:
        """How many examples of each class were answered how."""
        pairs, times = torch.stack([self.labels, self.answers], 1).unique(dim=0, return_counts=True)
        wrong = pairs[:, 0] != pairs[:, 1]
        triples = torch.cat([pairs, times[:, None]], 1)[wrong].tolist()
        rows, examples = self.labels.unique(return_counts=True)
        correct = self.labels[self.labels == self.answers].bincount(minlength=int(rows.max()) + 1)[rows]
        return {
            "rows": rows.tolist(),
            "examples": examples.tolist(),
            "correct": correct.tolist(),
            "wrong": ",".join(" ".join(map(str, triple)) for triple in triples),
        }


def wrong_answers(counts: AnswerCounts) -> list[tuple[int, int, int]]:
    """(row of the class, row answered, examples) of every wrong answer."""
    triples = [entry.split(" ") for entry in counts["wrong"].split(",") if entry]
    return [(int(label), int(answer), int(examples)) for label, answer, examples in triples]


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
