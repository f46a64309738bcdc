"""What is not a mistake, but worth a look before a run."""

from __future__ import annotations

from collections.abc import Iterator

from stockpot.checking.outcome import MemoryCheck, TaskCheck
from stockpot.printing import human_bytes

_CUT = 0.05  # of the texts that lose their end
_MOST_NAMED = 5  # classes in a message


def data_warnings(task: TaskCheck) -> Iterator[str]:
    """What a task's data make likely to disappoint."""
    where = f"task {task.name!r}"
    counts = task.tokens
    if counts is not None and counts.cut > _CUT * task.train:
        yield (
            f"{where}: {counts.cut} of {task.train} training texts lose their end, over {counts.limit} tokens: raise "
            "data.max_length, or cut them yourself."
        )
    if counts is not None and counts.left_out:
        yield (
            f"{where}: {counts.left_out} of {task.train} training texts are left out, since their prompts have over "
            f"{counts.limit} tokens."
        )
    if task.repeated:
        yield (
            f"{where}: {task.repeated} of {task.test} test examples are among the training examples, too: their score "
            "says nothing about new ones."
        )
    for part, number in (("training", 0), ("test", 1)):
        if missing := [name for name, counted in task.classes.items() if not counted[number]]:
            named = ", ".join(missing[:_MOST_NAMED]) + (", …" if len(missing) > _MOST_NAMED else "")
            yield f"{where}: no {part} examples of {named}."


def memory_warning(memory: MemoryCheck) -> Iterator[str]:
    """Where weights, gradients and the rest take more than there is."""
    if memory.total > memory.available:
        yield (
            f"memory: {human_bytes(memory.total)} without activations are more than the "
            f"{human_bytes(memory.available)} that are free: model.lora, a smaller model, or another train.optim need "
            "less."
        )
