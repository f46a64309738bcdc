"""What became of each class, as pandas frames: accuracy after each task, what was lost, what was taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stockpot.errors import StockpotError
from stockpot.evaluation.class_metrics import ClassRecord, class_accuracy, class_records, task_confusion, worst_first
from stockpot.results import START_ROW, Results

if TYPE_CHECKING:
    import pandas as pd


def class_matrix(results: Results, start: bool) -> pd.DataFrame:
    """Accuracy on each class (rows: task, class) after learning each task (columns); with `start`, before all too."""
    import pandas as pd

    stages = [START_ROW, *results.tasks]
    rows: dict[tuple[str, str], Sequence[float | None]] = {}
    for part, counted in results.classes.items():
        columns = [class_accuracy(counted, stage) for stage in range(len(stages))]
        rows |= dict(zip([(part, name) for name in counted.classes], zip(*columns, strict=True), strict=True))
    frame = pd.DataFrame(
        list(rows.values()),
        index=_classes(list(rows)),
        columns=pd.Index(stages, name="after", dtype=object),
        dtype=float,
    )
    return frame if start else frame.drop(columns=START_ROW)


def lost_frame(results: Results) -> pd.DataFrame:
    """A row for each class (task, class), those that lost most first; see `RunResult.lost_classes`."""
    import pandas as pd

    records = worst_first(class_records(results))
    columns = [name for name in ClassRecord._fields if name not in ("task", "name")]
    frame = pd.DataFrame(
        [[getattr(record, name) for name in columns] for record in records],
        index=_classes([(record.task, record.name) for record in records]),
        columns=columns,
    )
    numbers = dict.fromkeys(("learnt", "end", "lost", "precision", "f1", "wrong_share"), float)
    return frame.astype(numbers | {"examples": int, "wrong": object})


def confused_tasks(results: Results) -> pd.DataFrame:
    """Of the examples of each task (rows) the share that was answered with a class of each task (columns).

    Raises StockpotError where classes of different tasks do not compete.
    """
    import pandas as pd

    shares = task_confusion(results)
    if shares is None:
        reason = (
            f"with scenario: {results.scenario} the classes of different tasks do not compete"
            if results.scenario != "class-incremental"
            else "it takes two tasks"
        )
        raise StockpotError(f"tasks were not taken for each other: {reason}; ask for by='class'.")
    rows, columns = (pd.Index(results.tasks, name=name, dtype=object) for name in ("task", "answered"))
    return pd.DataFrame(shares, index=rows, columns=columns, dtype=float)


def confused_classes(results: Results, counts: bool) -> pd.DataFrame:
    """Of the examples of each class (rows: task, class) the share, or with `counts` the number, of each answer."""
    import pandas as pd

    parts = {task: results.classes[task] for task in results.tasks if task in results.classes}
    answered = dict.fromkeys(name for part in parts.values() for name in part.classes)
    answered |= dict.fromkeys(name for part in parts.values() for answers in part.answers for name in answers)
    rows: dict[tuple[str, str], list[Any]] = {}
    for task, part in parts.items():
        for name, answers in zip(part.classes, part.answers, strict=True):
            many = sum(answers.values())
            values = [answers.get(answer, 0) for answer in answered]
            rows[task, name] = values if counts else [value / many if many else None for value in values]
    columns = pd.Index(list(answered), name="answered", dtype=object)
    return pd.DataFrame(
        list(rows.values()), index=_classes(list(rows)), columns=columns, dtype=int if counts else float
    )


def lost_by_method(runs: dict[str, list[Results]]) -> pd.DataFrame:
    """What each class (rows: task, class) lost under each method (columns), the mean over its runs."""
    import pandas as pd

    means = {}
    for label, results in runs.items():
        lost = [lost_frame(run)["lost"] for run in results if run.classes]
        if lost:
            means[label] = pd.concat(lost, axis=1).mean(axis=1, skipna=False)
    order = {(record.task, record.name): None for run in next(iter(runs.values()), []) for record in class_records(run)}
    frame = pd.DataFrame(means, index=_classes(list(order)), dtype=float)
    frame.columns.name = "method"
    return frame


def _classes(entries: Sequence[tuple[str, str]]) -> pd.MultiIndex:
    import pandas as pd

    names = ["task", "class"]
    return (
        pd.MultiIndex.from_tuples(entries, names=names) if entries else pd.MultiIndex.from_arrays([[], []], names=names)
    )
