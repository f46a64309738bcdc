"""LwF: the distillation, and which rows it is over."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy import LOOPS, assert_close, by_hand, config, copied, examples, learn, network, seed

from stockpot.batches.examples import Batch, TrainingData
from stockpot.methods.lwf import distillation


def test_distillation_is_the_divergence_times_the_temperature_squared() -> None:
    draws = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 3, generator=draws, dtype=torch.float64) for _ in range(2))
    for temperature in (0.5, 1.0, 2.0):
        p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
        expected = temperature**2 * (p * (p / q).log()).sum(-1).mean()
        torch.testing.assert_close(distillation(student, teacher, temperature), expected)
        torch.testing.assert_close(distillation(teacher, teacher, temperature), torch.zeros(()).double())


def test_in_the_limit_of_high_temperatures_it_compares_logits() -> None:
    """½ the variance of the differences (Hinton et al., §2.1): T² keeps it finite."""
    student, teacher = torch.tensor([[1.0, -2.0, 4.0]]).double(), torch.tensor([[0.5, 1.0, -1.0]]).double()
    expected = 0.5 * (student - teacher).var(unbiased=False)
    torch.testing.assert_close(distillation(student, teacher, 1e5), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("owners", [None, [0, 0, 1, 1]], ids=["one head", "a head for each task"])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_old_models_answers_in_the_old_rows_are_kept(loop: str, owners: list[int] | None, tmp_path: Path) -> None:
    rows = None if owners is None else torch.tensor(owners)
    learnt = learn(config("lwf", strength=0.7, temperature=3.0), loop, tmp_path, owners=rows)
    teacher = copy.deepcopy(network())
    teacher.load_state_dict(learnt.weights[1])

    def extra(model: nn.Module, batch: Batch) -> Tensor:
        x = batch["pixel_values"]
        p, q = ((net(x)[:, :2] / 3.0).log_softmax(-1) for net in (teacher, model))
        kept = -0.7 * 9.0 * (p.exp().detach() * q).sum(-1).mean()  # the teacher's entropy has no gradient
        if rows is None:
            return kept
        logits = model(x)  # by_hand's loss has all rows compete: take it back, and give the task's own
        own = nn.functional.cross_entropy(logits[:, 2:], batch["labels"] - 2)
        return kept + own - nn.functional.cross_entropy(logits, batch["labels"])

    by_formula = by_hand(learnt.weights[1], TrainingData.of(examples(1)), seed(1), extra=extra)
    assert_close(learnt.weights[2], by_formula, 1e-10)
    assert_close(copied(teacher), learnt.weights[1], 0)  # it teaches, and does not learn


def test_old_heads_are_distilled_each_by_itself(tmp_path: Path) -> None:
    tasks = [examples(0), examples(1), examples(0)]
    learnt = learn(config("lwf"), "plain", tmp_path, tasks=tasks, owners=torch.tensor([0, 0, 1, 1]))
    together = learn(config("lwf"), "plain", tmp_path / "one", tasks=tasks)
    assert learnt.methods[2]._groups == [[0, 1], [2, 3]]  # type: ignore[attr-defined]
    assert together.methods[2]._groups == [[0, 1, 2, 3]]  # type: ignore[attr-defined]


def test_tasks_without_a_common_class_are_told_of(tmp_path: Path) -> None:
    learnt = learn(config("lwf"), "plain", tmp_path, tasks=[examples(0), examples(1), examples(0)])
    assert learnt.methods[0].notes == [
        "task 'task0' is the first and was not distilled: the start model has no rows of earlier tasks"
    ]
    assert "shares no class" in learnt.methods[1].notes[0]
    assert learnt.methods[2].notes == []


def test_the_teacher_costs_the_memory_of_a_model(tmp_path: Path) -> None:
    learnt = learn(config("lwf"), "plain", tmp_path)
    size = sum(tensor.nbytes for tensor in learnt.weights[0].values())
    assert [method.costs.extra_memory_bytes for method in learnt.methods] == [0, size]
    assert [method.costs.stored_bytes for method in learnt.methods] == [0, 0]


@pytest.mark.parametrize(("key", "value"), [("strength", -1.0), ("temperature", 0.0), ("temperature", -2.0)])
def test_settings_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match="greater than"):
        config("lwf", **{key: value})
