"""What became of each class: accuracy when it was learnt and at the end, what it was taken for, and confused tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stockpot.evaluation.class_metrics import class_accuracy, class_records, task_confusion, worst_first
from stockpot.results import ClassAnswers, Results

Factory = Callable[..., Any]


FIRST = [{"cat": 2, "dog": 7, "cow": 1}, {"cow": 5, "emu": 3, "dog": 2}]


def counted(
    classes: list[str], correct: list[list[int] | None], answers: list[dict[str, int]], many: int = 10
) -> ClassAnswers:
    return ClassAnswers(classes=classes, examples=[many] * len(classes), correct=correct, answers=answers)


@pytest.fixture
def results(run_of: Factory) -> Results:
    """Two tasks: `cat` was lost to `dog`, `cow` to both classes of the second task."""
    return run_of(tasks=["first", "second"]).model_copy(
        update={
            "classes": {
                "first": counted(["cat", "cow"], [[0, 0], [9, 8], [2, 5]], FIRST),
                "second": counted(["dog", "emu"], [[0, 0], [0, 0], [10, 6]], [{"dog": 10}, {"emu": 6, "cat": 4}]),
            }
        }
    )


def test_what_became_of_each_class(results: Results) -> None:
    cat, cow, dog, emu = class_records(results)
    assert [record.task for record in (cat, cow, dog, emu)] == ["first", "first", "second", "second"]
    assert (cat.learnt, cat.end, cow.learnt, cow.end, emu.learnt, emu.end) == (0.9, 0.2, 0.8, 0.5, 0.6, 0.6)
    assert [record.lost for record in (cat, cow, dog, emu)] == pytest.approx([0.7, 0.3, 0, 0])
    assert (cat.wrong, cat.wrong_share, cow.wrong, cow.wrong_share) == ("dog", 0.7, "emu", 0.3)
    assert (dog.wrong, dog.wrong_share) == (None, None)
    assert dog.precision == 10 / 19 and dog.f1 == pytest.approx(2 / (1 + 19 / 10))
    assert cat.precision == 2 / 6 and cat.f1 == pytest.approx(2 * 2 / (10 + 6))
    assert [record.name for record in worst_first([emu, dog, cow, cat])[:2]] == ["cat", "cow"]


def test_confusion_between_tasks_is_the_share_of_answers_with_a_class_of_each(results: Results) -> None:
    assert task_confusion(results) == [[8 / 20, 12 / 20], [4 / 20, 16 / 20]]
    apart = results.model_copy(update={"scenario": "task-incremental"})
    assert task_confusion(apart) is None
    assert class_records(apart)[2].precision == 1.0  # the other task's answers are its own classes' affair


def test_a_class_of_two_tasks_counts_for_its_own(results: Results) -> None:
    first = counted(["cat", "cow"], [[0, 0], [9, 8], [2, 5]], [FIRST[0], {"cow": 5, "dog": 5}])
    second = counted(["dog", "cat"], [[0, 0], [0, 0], [10, 6]], [{"dog": 10}, {"cat": 6, "cow": 4}])
    shared = results.model_copy(update={"classes": {"first": first, "second": second}})
    assert task_confusion(shared) == [[8 / 20, 12 / 20], [4 / 20, 16 / 20]]
    assert class_records(shared)[0].precision == 8 / 8  # over both tasks


def test_what_was_not_counted_is_none(results: Results) -> None:
    part = ClassAnswers(classes=["cat", "cow"], examples=[10, 0], correct=[None, [9, 0], None], answers=[{}, {}])
    unknown = results.model_copy(update={"classes": {"first": part}})
    assert class_accuracy(part, 0) == [None, None] and class_accuracy(part, 1) == [0.9, None]
    cat, cow = class_records(unknown)
    assert (cat.learnt, cat.end, cat.lost, cat.precision, cat.f1, cat.wrong) == (0.9, None, None, None, None, None)
    assert cow.learnt is None
    assert task_confusion(unknown) == [[None, None], [None, None]]
    assert class_records(results.model_copy(update={"classes": {}})) == []
