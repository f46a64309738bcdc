"""Scores of classifiers against scikit-learn, from one forward pass that also counts how each class was answered."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from torch import nn

from stockpot.batches.examples import TensorExamples
from stockpot.errors import StockpotError
from stockpot.evaluation.measure import check_scores, measure
from stockpot.evaluation.predictions import Predictions, wrong_answers
from stockpot.evaluation.scores import SCORES
from stockpot.evaluation.scores.base import Subject


class Echo(nn.Module):
    """Its logits are its inputs; counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.passes = nn.Parameter(torch.zeros(1)), 0

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return pixel_values


def scores(*names: str) -> list[Any]:
    return [SCORES[name].model_validate({"name": name}) for name in names]


@pytest.mark.parametrize("few", [2, 5])
def test_scores_are_those_of_scikit_learn(few: int) -> None:
    """Ten imbalanced examples to one of the classes 0 to few − 1; answers may be any of six classes but the last."""
    draws = torch.Generator().manual_seed(few)
    labels = (torch.rand(200, generator=draws) ** 2 * few).long()
    logits = torch.randn(200, 6, generator=draws)
    logits[torch.arange(200), labels] += 1.0
    candidates = torch.tensor([True] * 5 + [False])
    model = Echo()
    subject = Subject(model, "a", TensorExamples(logits, labels), 64, candidates)
    values = measure(scores("accuracy", "balanced_accuracy", "macro_f1"), subject)
    answers = logits[:, :5].argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # answers of other tasks
        balanced = balanced_accuracy_score(labels, answers)
    f1 = f1_score(labels, answers, labels=range(few), average="macro", zero_division=0)
    assert values["accuracy"] == accuracy_score(labels, answers)
    assert values["balanced_accuracy"] == pytest.approx(balanced, abs=1e-15)
    assert values["macro_f1"] == pytest.approx(f1, abs=1e-15)
    assert len({round(value, 6) for value in values.values() if value is not None}) == 3
    assert model.passes == 4  # of 64 examples, shared by the three
    dense = confusion_matrix(labels, answers, labels=range(6))
    counts = subject.answer_counts()
    assert counts is not None and counts["rows"] == list(range(few))
    assert counts["examples"] == dense.sum(1)[:few].tolist() and counts["correct"] == dense.diagonal()[:few].tolist()
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    assert wrong_answers(counts) == [(i, j, dense[i, j]) for i, j in pairs if dense[i, j]]
    perfect = Predictions(labels, labels).counts()
    assert perfect["wrong"] == "" and wrong_answers(perfect) == []


def test_a_part_that_no_score_is_measured_on_is_not_counted() -> None:
    subject = Subject(Echo(), "b", TensorExamples(torch.eye(2), torch.arange(2)), 2, torch.tensor([True, True]))
    only = SCORES["accuracy"].model_validate({"name": "accuracy", "tasks": ["a"]})
    assert measure([only], subject) == {"accuracy": None}
    assert subject.answer_counts() is None


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1"])
def test_texts_that_are_continued_have_no_classes(name: str) -> None:
    with pytest.raises(StockpotError, match=f"{name}: this score is for a classifier"):
        check_scores(scores(name), ["a"])
