"""Which classes were lost: as a table, those that lost most first, and in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from stockpot.evaluation.class_metrics import ClassRecord, class_records, task_confusion, worst_first
from stockpot.report.formatting import MISSING, fit, is_zero, percent, score
from stockpot.report.ranking import design_of_all
from stockpot.report.tables import Grid, method_name
from stockpot.results import Comparison, Results

MOST_LOST = 10  # classes that are shown before the rest is folded away
MOST_SHOWN = 200  # classes of a table; more are in results.json
WIDEST_CONFUSION = 16  # tasks of a table
HEADINGS = ["task", "examples", "just learnt", "at the end", "lost", "precision", "F1", "most often answered as"]


def lost_grids(results: Results) -> list[Grid]:
    """The classes of all tasks learnt, those that lost most first: the first few, then the rest, if any."""
    records = worst_first(class_records(results))
    if not records:
        return []
    homes = _homes(records)
    rows = [(record.name, _cells(record, homes)) for record in records]
    first = len(rows) if len(rows) <= MOST_LOST + 2 else MOST_LOST
    what = "Every class" if first == len(rows) else f"The {first} of {len(rows):,} classes that lost most"
    caption = f"{what}: accuracy when its task was just learnt, at the end, and lost, which is below 0 where it gained"
    grids = [Grid(caption, HEADINGS, rows[:first], "class")]
    if rest := rows[first:MOST_SHOWN]:
        left = len(rows) - first - len(rest)
        caption = f"The next {len(rest)}; results.json has all" if left else "All other classes"
        grids.append(Grid(caption, HEADINGS, rest, "class"))
    return grids


def _homes(records: Sequence[ClassRecord]) -> dict[str, str]:
    """Class → the first task that has it."""
    homes: dict[str, str] = {}
    for record in records:
        homes.setdefault(record.name, record.task)
    return homes


def _cells(record: ClassRecord, homes: dict[str, str]) -> list[str]:
    values = (record.learnt, record.end, record.lost, record.precision, record.f1)
    return [record.task, f"{record.examples:,}", *map(score, values), _wrong_answer(record, homes)]


def _wrong_answer(record: ClassRecord, homes: dict[str, str]) -> str:
    """`"dog (pets), 62 %"`; without the task where it is the class's own, or none has the answer."""
    if record.wrong is None or record.wrong_share is None:
        return MISSING
    home = homes.get(record.wrong, record.task)
    where = f" ({home})" if home != record.task else ""
    return f"{fit(record.wrong, 40)}{where}, {percent(record.wrong_share)}"


def lost_sentence(results: Results) -> str | None:
    """How many classes lost more than half of their accuracy, and which lost most; None where nothing was lost."""
    records = class_records(results)
    known = [record for record in records if record.lost is not None and record.learnt]
    if not known or len(results.tasks) < 2:
        return None
    worst = worst_first(known)[0]
    if worst.lost is None or worst.lost <= 0 or is_zero(worst.lost):
        return None
    half = sum(1 for record in known if record.lost is not None and record.learnt and record.lost > record.learnt / 2)
    many = f"{half:,} of {len(records):,} lost more than half of their accuracy"
    name = f"{fit(worst.name, 40)} ({worst.task})"
    answer = "" if worst.wrong is None else f", most often answered as {_wrong_answer(worst, _homes(records))}"
    return f"Classes: {many}; most {name}: {score(worst.learnt)} when learnt, {score(worst.end)} at the end{answer}."


def confusion_grid(results: Results) -> Grid | None:
    """Of the test examples of each task the share answered with a class of each; None where tasks are not confused.

    Of more than a few tasks no table can be read: the figure shows them.
    """
    shares = task_confusion(results)
    if shares is None or len(shares) > WIDEST_CONFUSION:
        return None
    rows = [
        (task, [MISSING if share is None else score(share) for share in row])
        for task, row in zip(results.tasks, shares, strict=True)
    ]
    caption = "Of the test examples of each task, the share answered with a class of each, after the last task"
    return Grid(caption, results.tasks, rows, "examples of \\ answered as")


def lost_under_methods(comparison: Comparison, cells: dict[str, list[Results]], labels: Sequence[str]) -> Grid | None:
    """What each class lost under each of the methods, the mean over its runs; those that lost most in the mean first.

    None where no run counted answers by class.
    """
    means: dict[str, dict[tuple[str, str], float]] = {}
    for label in labels:
        lost: dict[tuple[str, str], list[float]] = {}
        for run in cells.get(label, []):
            for record in class_records(run):
                if record.lost is not None:
                    lost.setdefault((record.task, record.name), []).append(record.lost)
        if lost:
            means[label] = {place: fsum(values) / len(values) for place, values in lost.items()}
    places = dict.fromkeys(place for mean in means.values() for place in mean)
    if not places or len(comparison.tasks) < 2:
        return None

    def over_methods(place: tuple[str, str]) -> float:
        return fsum(mean.get(place, 0.0) for mean in means.values())

    worst = sorted(places, key=over_methods, reverse=True)[:MOST_LOST]
    rows = [(f"{name} ({task})", [score(mean.get((task, name))) for mean in means.values()]) for task, name in worst]
    headings = [method_name(label, comparison.methods[label]) for label in means]
    which = (
        "Every class" if len(places) <= len(worst) else f"The {len(worst)} of {len(places):,} classes that lost most"
    )
    caption = f"{which}: accuracy lost since its task was learnt; means over {design_of_all(comparison)}"
    return Grid(caption, headings, rows, "class")
