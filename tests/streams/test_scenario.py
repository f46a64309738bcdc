"""Which output row stands for which class, and which rows compete: the table of `scenario.py`, worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stockpot.streams.scenario import Rows, mask_rivals

TASKS = [("first", ["cat", "dog"]), ("second", ["dog", "cow", "fox"]), ("third", ["cat"])]
SCENARIOS = ["class-incremental", "domain-incremental", "task-incremental"]


def test_class_incremental_gives_a_class_one_row_in_every_task() -> None:
    rows = Rows.of("class-incremental", TASKS)
    assert rows.tasks == ((0, 1), (1, 2, 3), (0,))
    assert rows.names == ("cat", "dog", "cow", "fox")
    assert [rows.count(learnt) for learnt in range(4)] == [0, 2, 4, 4]
    assert rows.owners(4) is None  # all rows compete in training


def test_domain_incremental_gives_a_position_one_row_in_every_task() -> None:
    rows = Rows.of("domain-incremental", TASKS)
    assert rows.tasks == ((0, 1), (0, 1, 2), (0,))
    assert rows.names == ("0", "1", "2")
    assert [rows.count(learnt) for learnt in range(4)] == [0, 2, 3, 3]
    assert rows.owners(3) is None


def test_task_incremental_gives_each_task_its_own_rows() -> None:
    rows = Rows.of("task-incremental", TASKS)
    assert rows.tasks == ((0, 1), (2, 3, 4), (5,))
    assert rows.names == ("first/cat", "first/dog", "second/dog", "second/cow", "second/fox", "third/cat")
    assert [rows.count(learnt) for learnt in range(4)] == [0, 2, 5, 6]
    owners = rows.owners(7)
    assert owners is not None
    assert owners.tolist() == [0, 0, 1, 1, 1, 2, -1]  # a row of no task is nobody's


def test_class_incremental_evaluates_among_classes_seen_or_asked_about() -> None:
    rows = Rows.of("class-incremental", TASKS)

    def may(task: int, learnt: int) -> list[int]:
        return rows.evaluated(task, learnt, 5).nonzero().flatten().tolist()

    assert may(0, 0) == [0, 1]
    assert may(0, 1) == [0, 1]
    assert may(0, 2) == [0, 1, 2, 3]  # the newer classes are rivals now
    assert may(1, 1) == [0, 1, 2, 3]  # a task ahead is asked about its own classes too
    assert may(2, 3) == [0, 1, 2, 3]
    assert rows.evaluated(1, 1, 2).tolist() == [True, True]  # rows that the head does not have yet are left out


def test_domain_incremental_evaluates_among_all_rows() -> None:
    assert Rows.of("domain-incremental", TASKS).evaluated(2, 1, 3).tolist() == [True, True, True]


def test_task_incremental_evaluates_among_the_tasks_own_rows() -> None:
    rows = Rows.of("task-incremental", TASKS)
    for learnt in range(4):
        assert rows.evaluated(1, learnt, 6).tolist() == [False, False, True, True, True, False]


tasks = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True), min_size=1, max_size=5).map(
    lambda classes: [(f"task{number}", own) for number, own in enumerate(classes)]
)


@given(tasks, st.sampled_from(SCENARIOS), st.integers(0, 5))
def test_rows_of_a_longer_stream_begin_with_those_of_a_shorter_one(stream: list, scenario: str, cut: int) -> None:
    shorter, longer = Rows.of(scenario, stream[:cut]), Rows.of(scenario, stream)
    assert longer.tasks[: len(shorter.tasks)] == shorter.tasks
    assert longer.names[: len(shorter.names)] == shorter.names
    assert longer.count(len(shorter.tasks)) == len(shorter.names)


@given(tasks, st.sampled_from(SCENARIOS))
def test_every_row_is_used_and_a_task_never_uses_one_twice(stream: list, scenario: str) -> None:
    rows = Rows.of(scenario, stream)
    used = {row for own in rows.tasks for row in own}
    assert used == set(range(len(rows.names))) == set(range(rows.count(len(stream))))
    assert all(len(set(own)) == len(own) for own in rows.tasks)
    for task, (_, classes) in enumerate(stream):
        allowed = rows.evaluated(task, len(stream), len(rows.names))
        assert allowed[list(rows.tasks[task])].all()
        if scenario == "class-incremental":
            assert [rows.names[row] for row in rows.tasks[task]] == classes


@pytest.mark.parametrize("owners", [[0, 0, 1, 1, 1, -1], [1, 0, 1, 0, 1, 0]])
def test_masked_loss_is_a_softmax_over_the_tasks_own_rows(owners: list[int]) -> None:
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3])
    loss = torch.nn.functional.cross_entropy(mask_rivals(logits, labels, torch.tensor(owners)), labels)
    alone = []
    for example, label in enumerate(labels.tolist()):
        own = [row for row, owner in enumerate(owners) if owner == owners[label]]
        alone.append(torch.logsumexp(logits[example, own], 0) - logits[example, label])
    torch.testing.assert_close(loss, torch.stack(alone).mean(), rtol=1e-14, atol=0)

    (gradient,) = torch.autograd.grad(loss, logits)
    for example, label in enumerate(labels.tolist()):
        for row, owner in enumerate(owners):
            assert (gradient[example, row] == 0) == (owner != owners[label])  # exactly 0 for the rivals


def test_without_owners_nothing_is_masked() -> None:
    logits = torch.randn(2, 3)
    assert mask_rivals(logits, torch.tensor([0, 1]), None) is logits
