"""Losses of several labels and of numbers: those of Transformers, where every label is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from stockpot.batches.examples import TensorExamples, concat, joined_labels
from stockpot.batches.losses import ProblemType, distillation, mean_loss
from stockpot.batches.outputs import items_in

PROBLEMS: list[ProblemType] = ["regression", "multi_label_classification"]
UNKNOWN = float("nan")


def drawn(problem: ProblemType, many: int = 7, rows: int = 3) -> tuple[Tensor, Tensor]:
    logits, labels = torch.randn(2, many, rows, dtype=torch.float64)
    return logits, labels if problem == "regression" else (labels > 0).double()


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("rows", [1, 3])
def test_with_all_labels_known_the_loss_is_that_of_transformers(problem: ProblemType, rows: int) -> None:
    logits, labels = drawn(problem, rows=rows)
    config: Any = SimpleNamespace(problem_type=problem, num_labels=rows)
    theirs = ForSequenceClassificationLoss(labels, logits, config)
    torch.testing.assert_close(mean_loss(problem, logits, {"labels": labels}), theirs)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_unknown_labels_have_neither_a_loss_nor_a_gradient(problem: ProblemType) -> None:
    logits, labels = drawn(problem)
    labels[::2, 1] = UNKNOWN
    known = ~labels.isnan()
    logits.requires_grad_()
    loss = mean_loss(problem, logits, {"labels": labels})
    torch.testing.assert_close(loss, mean_loss(problem, logits[known][:, None], {"labels": labels[known][:, None]}))
    (slope,) = torch.autograd.grad(loss, logits)
    assert bool((slope[~known] == 0).all()) and bool((slope[known] != 0).all())
    assert items_in({"labels": labels}) == int(known.sum()) == 17


@pytest.mark.parametrize("problem", PROBLEMS)
def test_labels_of_a_smaller_head_have_no_loss_in_the_rows_that_came_later(problem: ProblemType) -> None:
    logits, labels = drawn(problem)
    small = mean_loss(problem, logits, {"labels": labels[:, :2]})
    torch.testing.assert_close(small, mean_loss(problem, logits[:, :2], {"labels": labels[:, :2]}))
    torch.testing.assert_close(small, mean_loss(problem, logits[:, :2], {"labels": labels}))


def test_examples_of_tasks_with_other_outputs_are_joined_with_unknown_labels() -> None:
    first = TensorExamples(torch.zeros(2, 1), torch.ones(2, 1))
    second = TensorExamples(torch.zeros(1, 1), torch.tensor([[UNKNOWN, 3.0]]))
    expected = torch.tensor([[1.0, UNKNOWN], [1.0, UNKNOWN], [UNKNOWN, 3.0]])
    assert torch.equal(concat([first, second]).labels.nan_to_num(-1), expected.nan_to_num(-1))
    assert torch.equal(joined_labels([torch.tensor([1]), torch.tensor([0])]), torch.tensor([1, 0]))


def test_distillation_of_labels_is_binary_cross_entropy_with_the_teachers_answers_up_to_their_entropy() -> None:
    student, teacher = torch.randn(2, 6, 3, dtype=torch.float64)
    p = (teacher / 3).sigmoid()
    cross = nn.functional.binary_cross_entropy_with_logits(student / 3, p)
    own = nn.functional.binary_cross_entropy_with_logits(teacher / 3, p)
    found = distillation(student, teacher, 3.0, "multi_label_classification")
    torch.testing.assert_close(found, 9 * (cross - own))


def test_distillation_of_numbers_is_their_mean_squared_difference() -> None:
    student, teacher = torch.randn(2, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(
        distillation(student, teacher, 3.0, "regression"), nn.functional.mse_loss(student, teacher)
    )
