"""What became of each class: accuracy when it was learnt and at the end, what it was taken for, and confused tasks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stockpot.evaluation.class_metrics import class_accuracy, class_records, task_confusion, worst_first
from stockpot.report.charts import Chart
from stockpot.report.class_figures import (
    MOST_CLASSES,
    MOST_STAGES,
    classes_caption,
    classes_over_time,
    tasks_taken_for_others,
)
from stockpot.report.export import export_runs
from stockpot.report.findings import run_summary
from stockpot.report.lost_classes import (
    MOST_LOST,
    MOST_SHOWN,
    WIDEST_CONFUSION,
    confusion_grid,
    lost_grids,
    lost_sentence,
    lost_under_methods,
)
from stockpot.report.run_page import write_run_report
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
    return run_of(K=2, tasks=["first", "second"]).model_copy(
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


def test_the_table_shows_those_that_lost_most_and_folds_the_rest(results: Results) -> None:
    [grid] = lost_grids(results)
    assert [name for name, _ in grid.rows] == ["cat", "cow", "dog", "emu"]
    assert dict(grid.rows)["cat"] == ["first", "10", "0.900", "0.200", "0.700", "0.333", "0.250", "dog (second), 70 %"]
    assert dict(grid.rows)["dog"][-1] == "—"
    many = [f"c{n}" for n in range(1000)]
    part = counted(many, [[0] * 1000, [10] * 1000, [n // 100 for n in range(1000)]], [{} for _ in many])
    long = results.model_copy(update={"classes": {"first": part}})
    worst, rest = lost_grids(long)
    assert [name for name, _ in worst.rows] == many[:MOST_LOST]
    assert worst.caption.startswith("The 10 of 1,000 classes that lost most")
    assert len(rest.rows) == MOST_SHOWN - MOST_LOST and rest.caption == "The next 190; results.json has all"
    assert lost_grids(results.model_copy(update={"classes": {}})) == []


def test_a_sentence_names_the_class_that_lost_most(results: Results) -> None:
    sentence = lost_sentence(results)
    assert sentence == (
        "Classes: 1 of 4 lost more than half of their accuracy; most cat (first): 0.900 when learnt, 0.200 at the end, "
        "most often answered as dog (second), 70 %."
    )
    assert run_summary(results)[1:] == [sentence]
    kept = counted(["cat", "cow"], [[0, 0], [9, 8], [9, 9]], [{"cat": 9, "dog": 1}, {"cow": 9, "cat": 1}])
    assert lost_sentence(results.model_copy(update={"classes": {"first": kept}})) is None


def test_exports_have_the_classes(results: Results, hostile: str) -> None:
    part = results.classes["first"]
    odd = part.model_copy(
        update={"classes": ["cat", hostile], "answers": [part.answers[0], {hostile: 5, "emu": 3, "dog": 2}]}
    )
    run = results.model_copy(update={"classes": {**results.classes, "first": odd}})
    rows = [row for row in csv.DictReader(io.StringIO(export_runs([("run", run)], "csv"))) if row["kind"] == "class"]
    values = {(row["on"], row["class"], row["after"]): float(row["value"]) for row in rows}
    assert len(rows) == len(values) == 2 * 2 * 3
    assert values["first", hostile, "first"] == 0.8 and values["first", "cat", "second"] == 0.2
    assert {(row["score"], row["unit"]) for row in rows} == {("class_accuracy", "fraction")}
    for form in ("md", "latex"):
        text = export_runs([("run", run)], form)
        assert "0.900" in text and "dog (second), 70" in text and hostile not in text
        assert "0.600" in text  # of the first task, answered with a class of the second
    assert json.loads(export_runs([("run", run)], "json"))["classes"]["first"]["classes"][1] == hostile


def test_confusion_of_many_tasks_is_no_table(results: Results) -> None:
    grid = confusion_grid(results)
    assert grid is not None and grid.rows == [("first", ["0.400", "0.600"]), ("second", ["0.200", "0.800"])]
    many = [f"t{n}" for n in range(WIDEST_CONFUSION + 1)]
    classes = {task: counted([task], [[0]] * (len(many) + 1), [{task: 10}]) for task in many}
    assert confusion_grid(results.model_copy(update={"tasks": many, "classes": classes})) is None


def many_classes(tasks: int, each: int, run: Results) -> Results:
    """A stream in which class c of a task keeps c of 10 examples, and the others go to the last class."""
    names = [f"t{n}" for n in range(tasks)]
    last = f"t{tasks - 1} c{each - 1}"
    classes = {}
    for number, task in enumerate(names):
        labels = [f"{task} c{c}" for c in range(each)]
        kept = [c % 10 for c in range(each)]
        correct: list[list[int] | None] = [[0] * each for _ in range(number + 1)]
        correct += [[10] * each, *([kept] * (tasks - number - 1))]
        answers = [{label: many, last: 10 - many} for label, many in zip(labels, kept, strict=True)]
        classes[task] = counted(labels, correct, answers)
    return run.model_copy(update={"tasks": names, "classes": classes})


def cells(chart: Chart) -> dict[tuple[str, str], float]:
    return {(row["row"], row["column"]): row["value"] for row in chart.spec["data"]["values"]}


def test_the_heat_map_of_classes_has_their_accuracy_at_every_stage(results: Results) -> None:
    values = cells(classes_over_time(results))
    assert values["cat (first)", "first"] == 0.9 and values["cat (first)", "second"] == 0.2
    assert values["emu (second)", "start"] == 0.0 and len(values) == 4 * 3
    confused = tasks_taken_for_others(results)
    assert confused is not None and cells(confused)["first", "second"] == 0.6
    assert tasks_taken_for_others(results.model_copy(update={"scenario": "task-incremental"})) is None


def test_of_many_classes_and_tasks_the_worst_and_some_stages_are_drawn(results: Results) -> None:
    long = many_classes(60, 20, results)
    values = cells(classes_over_time(long))
    rows, columns = ({place[axis] for place in values} for axis in (0, 1))
    assert len(rows) == MOST_CLASSES and len(columns) == MOST_STAGES and {"start", "t59"} <= columns
    kept = [values[row, "t59"] for row in rows]
    assert max(kept) == 0.0  # c0 and c10 of each task lost everything
    assert "The 30 of 1,200 classes that lost most" in classes_caption(long)
    assert classes_caption(results).startswith("Rows: classes; columns: before the stream and after each task")


def test_the_page_says_which_classes_were_lost(run_of: Factory, results: Results, tmp_path: Path) -> None:
    page = write_run_report([("run", results)], tmp_path).read_text(encoding="utf-8")
    assert "Which classes were lost?" in page and "The accuracy on each class over the stream" in page
    assert "Which tasks were taken for which" in page
    assert "dog (second), 70" in page
    assert "Which classes were lost?" not in write_run_report([("old", run_of())], tmp_path / "old").read_text()
    run = run_of(K=60)
    long = many_classes(60, 20, run).model_copy(update={"scores": run.scores})
    path = write_run_report([("long", long)], tmp_path / "long")
    assert "All other classes" in path.read_text(encoding="utf-8")
    assert path.stat().st_size < 2e6


def test_methods_side_by_side_in_what_classes_lost(comparison_of: Factory, results: Results) -> None:
    comparison, cells = comparison_of(2)
    assert lost_under_methods(comparison, cells, list(comparison.methods)) is None
    kept = counted(["cat", "cow"], [[0, 0], [9, 8], [8, 8]], [{"cat": 8, "dog": 2}, {"cow": 8, "cat": 2}])
    two = [results.classes, results.classes | {"first": kept}]
    cells = {label: [run.model_copy(update={"tasks": results.tasks, "classes": classes})
                     for run, classes in zip(runs, two, strict=True)] for label, runs in cells.items()}  # fmt: skip
    grid = lost_under_methods(comparison, cells, ["sequential", "sfa", "joint"])
    assert grid is not None and grid.headings == ["sequential (floor)", "sfa", "joint (ceiling)"]
    assert [name for name, _ in grid.rows] == ["cat (first)", "cow (first)", "dog (second)", "emu (second)"]
    assert grid.rows[0][1] == ["0.400"] * 3  # the mean of 0.7 and 0.1
