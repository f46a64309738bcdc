"""The classes of a run as heat maps: their accuracy over the stream, and which tasks were taken for which."""

from __future__ import annotations

from stockpot.evaluation.class_metrics import class_accuracy, class_records, task_confusion, worst_first
from stockpot.report.charts import Chart
from stockpot.report.heat_map import MOST_CELLS, heat_map
from stockpot.results import START_ROW, Results

MOST_CLASSES = 30  # rows; of more classes those that lost most
MOST_STAGES = MOST_CELLS // MOST_CLASSES  # columns; of more tasks stages at even distances


def _written(share: float) -> str:
    return f"{share:.2f}"


def classes_over_time(results: Results) -> Chart:
    """Accuracy on each class (rows) before the stream and after each task (columns).

    Classes are in the order of the stream; of many only those that lost most are drawn, these first.
    """
    records = class_records(results)
    records = records if len(records) <= MOST_CLASSES else worst_first(records)[:MOST_CLASSES]
    names = [START_ROW, *results.tasks]
    stages = shown_stages(len(names))
    by_task = {
        task: [dict(zip(part.classes, class_accuracy(part, stage), strict=True)) for stage in stages]
        for task, part in results.classes.items()
    }
    return heat_map(
        [[accuracies[record.name] for accuracies in by_task[record.task]] for record in records],
        [f"{record.name} ({record.task})" for record in records],
        [names[stage] for stage in stages],
        limits=(0.0, 1.0),
        meaning="accuracy",
        write=_written,
        axes=("class", "after learning task"),
    )


def shown_stages(count: int) -> list[int]:
    """All of so many stages, or of many some at even distances, the first and the last among them."""
    if count <= MOST_STAGES:
        return list(range(count))
    return sorted({round(place * (count - 1) / (MOST_STAGES - 1)) for place in range(MOST_STAGES)})


def tasks_taken_for_others(results: Results) -> Chart | None:
    """Of the test examples of each task (rows) the share answered with a class of each (columns); None without any."""
    shares = task_confusion(results)
    if shares is None:
        return None
    return heat_map(
        shares,
        results.tasks,
        results.tasks,
        limits=(0.0, 1.0),
        meaning="share of the examples",
        write=_written,
        axes=("examples of task", "answered with a class of task"),
    )


def classes_caption(results: Results) -> str:
    """What the first figure shows."""
    count = len(class_records(results))
    which = (
        f"The {MOST_CLASSES} of {count:,} classes that lost most, these first"
        if count > MOST_CLASSES
        else "Rows: classes"
    )
    stages = "some of the tasks, at even distances" if len(results.tasks) >= MOST_STAGES else "each task"
    return f"{which}; columns: before the stream and after {stages}. Brighter is better; blank was not counted."


CONFUSION_CAPTION = (
    "After the last task, of the test examples of each task (rows) the share answered with a class of each (columns): "
    "off the diagonal one task is taken for another."
)
