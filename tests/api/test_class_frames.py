"""The frames of classes have the numbers of results.json, at the end and after every task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

import stockpot
from stockpot.api.comparison_result import ComparisonResult
from stockpot.api.run_result import RunResult
from stockpot.errors import StockpotError

CLASSES = [("part-1", str(n)) for n in range(5)] + [("part-2", str(n)) for n in range(5, 10)]


def test_the_classes_of_a_task_average_to_its_accuracy(finished: RunResult) -> None:
    frame = finished.per_class(start=True)
    assert list(frame.index) == [*CLASSES, ("tilted", "0"), ("tilted", "1")]
    assert list(frame.columns) == ["start", "part-1", "part-2"]
    means = frame.groupby(level="task").mean().T  # six examples of each class
    expected = finished.matrix(start=True).join(finished.control_scores())
    expected.columns = expected.columns.astype(means.columns.dtype)
    pd.testing.assert_frame_equal(means, expected, check_names=False, rtol=1e-12)
    assert finished.per_class().equals(frame[["part-1", "part-2"]])


def test_lost_classes_come_with_what_was_lost_of_most_first(finished: RunResult) -> None:
    lost, accuracy = finished.lost_classes(), finished.per_class()
    assert sorted(lost.index) == CLASSES
    assert list(lost["lost"]) == sorted(lost["lost"], reverse=True) and lost["lost"].iloc[0] > 0
    for task, name in CLASSES:
        row = lost.loc[(task, name)]
        assert (row["learnt"], row["end"]) == (accuracy.loc[(task, name), task], accuracy.loc[(task, name), "part-2"])
        assert row["lost"] == row["learnt"] - row["end"] and row["examples"] == 6
        answers = finished.results.classes[task].answers[int(name) % 5]
        assert pd.isna(row["wrong"]) or row["wrong_share"] == answers[row["wrong"]] / 6
    everything = finished.confusion("class", counts=True)
    for name in map(str, range(10)):
        right, answered = everything.loc[(slice(None), name), name].sum(), everything[name].sum()
        precision = lost.xs(name, level="class")["precision"].iloc[0]
        assert pd.isna(precision) if not answered else precision == right / answered


def test_confusion_at_the_end_and_after_a_task(finished: RunResult) -> None:
    tasks, classes = finished.confusion(), finished.confusion("class")
    assert list(tasks.index) == list(tasks.columns) == ["part-1", "part-2"]
    assert tasks.sum(axis=1).tolist() == pytest.approx([1, 1])
    newer = [str(n) for n in range(5, 10)]
    assert classes.loc["part-1", newer].sum(axis=1).mean() == pytest.approx(tasks.loc["part-1", "part-2"])
    diagonal = [classes.loc[place, place[1]] for place in CLASSES]
    assert diagonal == finished.per_class()["part-2"].loc[CLASSES].tolist()
    earlier = finished.confusion("class", after="part-1", counts=True)
    assert list(earlier.index) == CLASSES[:5] and earlier.to_numpy().sum() == 30
    hits = [earlier.loc[place, place[1]] / 6 for place in CLASSES[:5]]
    assert hits == finished.per_class()["part-1"].loc[CLASSES[:5]].tolist()
    with pytest.raises(StockpotError, match="it takes two tasks"):
        finished.confusion(after="part-1")
    with pytest.raises(StockpotError, match=r"there is no task 'part1'\. Did you mean 'part-1'\?"):
        finished.confusion(after="part1")


def test_methods_side_by_side(compared: ComparisonResult) -> None:
    lost = compared.lost_classes()
    assert list(lost.index) == CLASSES and list(lost.columns) == list(compared.results.methods)
    seeds = [compared.run("wise_ft", seed).lost_classes()["lost"] for seed in (0, 1)]
    assert lost["wise_ft"].tolist() == pytest.approx(((seeds[0] + seeds[1]) / 2).loc[CLASSES].tolist())


def test_runs_without_counts_say_why(finished: RunResult, recipe: dict[str, Any]) -> None:
    old = replace(finished, results=finished.results.model_copy(update={"classes": {}}))
    for call in (old.per_class, old.lost_classes, old.confusion):
        with pytest.raises(StockpotError, match=r"did not count answers by class: .* an older version"):
            call()
    apart = replace(finished, results=finished.results.model_copy(update={"scenario": "domain-incremental"}))
    with pytest.raises(StockpotError, match=r"scenario: domain-incremental the classes .* do not compete"):
        apart.confusion()
    assert stockpot.open(finished.path).lost_classes().equals(finished.lost_classes())  # type: ignore[union-attr]
