"""What became of each class: functions of the answers that `Results.classes` counts.

Of a class: `n` its test examples, `correct_i` those answered with it after learning task i.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from stockpot.results import ClassAnswers, Results


class ClassRecord(NamedTuple):
    """One class of one task, after the last task learnt. A value is None where it was not counted."""

    task: str
    name: str
    examples: int  # n
    learnt: float | None  # accuracy when its task had just been learnt
    end: float | None  # accuracy after the last task
    lost: float | None  # learnt − end: positive is worse
    precision: float | None  # of the answers with this class, the share that is right
    f1: float | None  # harmonic mean of precision and accuracy
    wrong: str | None  # the most frequent wrong answer
    wrong_share: float | None  # of the examples, how many were answered so


def class_accuracy(counted: ClassAnswers, stage: int) -> list[float | None]:
    """`correct_stage / n` of each class; stage 0 is before the first task. None: not counted, or no test examples."""
    correct = counted.correct[stage]
    if correct is None:
        return [None] * len(counted.classes)
    return [hits / many if many else None for hits, many in zip(correct, counted.examples, strict=True)]


def class_records(results: Results) -> list[ClassRecord]:
    """Every class of every task learnt, in the order of the stream; a class of two tasks is there twice.

    Precision and F1 are over the test examples of all tasks learnt in class-incremental streams, where their classes
    compete, else over those of the class's own task.
    """
    together = results.scenario == "class-incremental"
    counted = {task: results.classes[task] for task in results.tasks if task in results.classes}
    answered, correct, examples = (Counter[tuple[str, str]]() for _ in range(3))

    def key(task: str, name: str) -> tuple[str, str]:
        return ("" if together else task), name

    for task, part in counted.items():
        for name, many, answers in zip(part.classes, part.examples, part.answers, strict=True):
            examples[key(task, name)] += many
            correct[key(task, name)] += answers.get(name, 0)
            for answer, times in answers.items():
                answered[key(task, answer)] += times
    records = []
    for task, part in counted.items():
        learnt = class_accuracy(part, results.tasks.index(task) + 1)
        end = class_accuracy(part, -1)
        for number, name in enumerate(part.classes):
            place = key(task, name)
            known = part.correct[-1] is not None
            both = examples[place] + answered[place]
            wrong, share = _wrong(part, number)
            before, after = learnt[number], end[number]
            records.append(
                ClassRecord(
                    task=task,
                    name=name,
                    examples=part.examples[number],
                    learnt=before,
                    end=after,
                    lost=None if before is None or after is None else before - after,
                    precision=correct[place] / answered[place] if known and answered[place] else None,
                    f1=2 * correct[place] / both if known and both else None,
                    wrong=wrong,
                    wrong_share=share,
                )
            )
    return records


def _wrong(part: ClassAnswers, number: int) -> tuple[str | None, float | None]:
    """The most frequent wrong answer to a class, of equal ones the first by name; and its share of the examples."""
    wrong = {answer: many for answer, many in part.answers[number].items() if answer != part.classes[number]}
    if not wrong:
        return None, None
    answer = min(wrong, key=lambda name: (-wrong[name], name))
    return answer, wrong[answer] / part.examples[number]


def worst_first(records: Sequence[ClassRecord]) -> list[ClassRecord]:
    """The classes that lost most first; those of unknown loss come last."""
    return sorted(records, key=lambda record: 2.0 if record.lost is None else -record.lost)


def task_confusion(results: Results) -> list[list[float | None]] | None:
    """`C[j][k]`: of the test examples of task j, the share answered with a class of task k, after the last task.

    A class of several tasks counts for task j where it is one of its own, else for the first of them. None where
    classes of different tasks do not compete, where there is one task, and where answers were not counted.
    """
    tasks = results.tasks
    if results.scenario != "class-incremental" or len(tasks) < 2 or not any(t in results.classes for t in tasks):
        return None
    home: dict[str, int] = {}
    for number, task in enumerate(tasks):
        for name in results.classes[task].classes if task in results.classes else ():
            home.setdefault(name, number)
    shares: list[list[float | None]] = []
    for number, task in enumerate(tasks):
        part = results.classes.get(task)
        if part is None or part.correct[-1] is None:
            shares.append([None] * len(tasks))
            continue
        classes, times = set(part.classes), [0] * len(tasks)
        for answers in part.answers:
            for answer, many in answers.items():
                place = number if answer in classes else home.get(answer)  # None: that task was not counted
                if place is not None:
                    times[place] += many
        total = sum(part.examples)
        shares.append([many / total for many in times])
    return shares
