"""A run counts how each class is answered: with every evaluation, also of tasks that come later; old runs do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stockpot.evaluation.class_metrics import class_accuracy, class_records, task_confusion
from stockpot.evaluation.predictions import AnswerCounts
from stockpot.evaluation.scores.base import Subject
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.report.lost_classes import lost_grids, lost_sentence
from stockpot.results import Results, Scores
from stockpot.runs.actions import add_task, continue_run, create_run
from stockpot.runs.class_answers import by_name
from stockpot.streams.scenario import Rows
from stockpot.streams.spec import TaskSpec


def learn(values: dict[str, Any], path: Path, **changes: Any) -> Results:
    recipe = validate(Recipe, {"loop": "plain", "metrics": ["accuracy", "macro_f1"], **values, **changes}, "here")
    create_run(recipe, recipe.method, 0, path)
    return continue_run(path)


def assert_counts_agree(results: Results) -> None:
    """The classes of every part, weighed by their examples, have the accuracy of the part at every stage."""
    scores: Scores = results.scores["accuracy"]
    columns = {
        task: [scores.initial[number], *(row[number] for row in scores.matrix)]
        for number, task in enumerate(results.tasks)
    } | scores.controls
    assert results.classes.keys() == columns.keys()
    for name, column in columns.items():
        part = results.classes[name]
        assert len(part.correct) == len(column)
        for stage, accuracy in enumerate(column):
            if accuracy is None:
                assert class_accuracy(part, stage) == [None] * len(part.classes)
            else:
                hits = part.correct[stage]
                assert hits is not None and sum(hits) / sum(part.examples) == accuracy
        assert [sum(answers.values()) for answers in part.answers] == part.examples
        last = [answers.get(name, 0) for name, answers in zip(part.classes, part.answers, strict=True)]
        assert last == part.correct[-1]


@pytest.mark.parametrize("scenario", ["class-incremental", "task-incremental", "domain-incremental"])
def test_classes_have_the_accuracy_of_their_task_at_every_stage(
    scenario: str, digits_recipe: dict[str, Any], tmp_path: Path
) -> None:
    controls = [{"name": "tilted", "data": {"classes": [1, 0], "rotate": 30}}] if scenario[0] != "t" else []
    results = learn(digits_recipe, tmp_path / "run", scenario=scenario, controls=controls)
    assert_counts_agree(results)
    assert results.classes["part-2"].classes == ["5", "6", "7", "8", "9"]
    assert results.classes["part-2"].examples == [6] * 5
    answered = {answer for part in results.classes.values() for answers in part.answers for answer in answers}
    assert answered <= set("0123456789")
    if scenario == "class-incremental":
        shares = task_confusion(results)
        assert shares is not None and [sum(row) for row in shares] == pytest.approx([1, 1])  # type: ignore[arg-type]
    else:
        assert all(set(answers) <= set(part.classes) for part in results.classes.values() for answers in part.answers)


def test_a_task_that_is_added_is_counted_from_the_start(digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    tasks = [{"name": name, "data": {"classes": classes}} for name, classes in (("a", [0, 1]), ("b", [2, 3]))]
    learn(digits_recipe, tmp_path / "run", tasks=tasks, keep="needed", head="seen")
    add_task(tmp_path / "run", TaskSpec.model_validate({"name": "c", "data": {"classes": [4, 1]}}))
    results = continue_run(tmp_path / "run")
    assert_counts_agree(results)
    gone = results.classes["c"].correct
    assert [hits is None for hits in gone] == [False, True, False, False]  # the model after `a` was not kept


def test_a_run_of_an_older_version_has_no_classes_and_goes_on(
    digits_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(Subject, "answer_counts", lambda self: None)
        results = learn(digits_recipe, tmp_path / "run")
    text = results.model_dump(mode="json")
    assert text.pop("classes") == {} and Results.model_validate(text) == results
    add_task(tmp_path / "run", TaskSpec.model_validate({"name": "next", "data": {"classes": [1, 7]}}))
    longer = continue_run(tmp_path / "run")
    assert list(longer.classes) == ["part-1", "part-2", "next"]
    assert [hits is None for hits in longer.classes["part-1"].correct] == [True, True, True, False]
    assert all(hits is not None for hits in longer.classes["next"].correct)  # its column was filled by this version
    lost = {(record.task, record.name): record.lost for record in class_records(longer)}
    assert lost["part-1", "1"] is None and lost["next", "1"] == 0
    assert lost_sentence(longer) is None and len(lost_grids(longer)[0].rows) == 12


def test_classes_that_share_a_row_are_one() -> None:
    counts: AnswerCounts = {"rows": [0, 1], "examples": [6, 4], "correct": [5, 1], "wrong": "0 1 1,1 0 3"}
    rows = Rows("animals", ((0, 0, 1),), ("fur", "shell"))
    part = by_name([None, counts], ["cat", "dog", "snail"], rows.tasks[0], rows)
    assert (part.classes, part.examples, part.correct) == (["cat / dog", "snail"], [6, 4], [None, [5, 1]])
    assert part.answers == [{"cat / dog": 5, "snail": 1}, {"snail": 1, "cat / dog": 3}]
