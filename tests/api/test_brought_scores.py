"""Metrics that users bring: a function, a class derived from Score, an entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brought
import pytest

import stockpot
from stockpot.api.run_result import RunResult
from stockpot.errors import StockpotError

CODE = '''
import numpy as np
from typing import ClassVar, Literal

from stockpot.evaluation.scores.base import Score

CALLS = []


def agreement(predictions, labels):
    assert predictions.shape == labels.shape and predictions.dtype == labels.dtype == np.int64
    CALLS.append(len(labels))
    return np.mean(predictions == labels)


def distance(predictions, labels):
    return {"distance": float(np.abs(predictions - labels).mean())}


def broken(predictions, labels):
    return labels.nothing


def words(predictions, labels):
    CALLS.append((predictions, labels))
    return "many"


class Missed(Score):
    """The fraction of examples that are not answered with their class."""

    higher_is_better: ClassVar[bool] = False
    suits: ClassVar[tuple[str, ...]] = ("classifier",)

    name: Literal["missed"] = "missed"
    scale: float = 1.0

    def measure(self, subject):
        return self.scale * (1 - self.classified(subject).accuracy)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "their_scores.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    with brought.forgotten("their_scores"):
        yield tmp_path


def test_a_function_is_a_metric(folder: Path, recipe: dict[str, Any], finished: RunResult) -> None:
    from their_scores import CALLS, agreement, distance  # type: ignore[import-not-found]

    metrics = [agreement, {"name": distance, "better": "lower", "counted_in": "rows"}, "accuracy"]
    run = stockpot.run({**recipe, "metrics": metrics}, output=folder / "run", progress=False)
    assert list(run.results.scores) == ["agreement", "distance", "accuracy"]
    assert run.results.primary == "agreement"
    assert run.matrix("agreement", start=True).equals(run.matrix("accuracy", start=True))
    assert run.matrix("agreement").equals(finished.matrix("accuracy"))
    assert set(CALLS) <= {30, 12} and len(CALLS) == 9  # two tasks and a control, three times
    described = run.results.scores["distance"]
    assert (described.unit, described.higher_is_better) == ("rows", False)
    changes = stockpot.run(
        {**recipe, "metrics": metrics, "primary": "distance"}, output=folder / "other", progress=False
    )
    matrix = changes.matrix("distance")
    forgotten = matrix.loc["part-2", "part-1"] - matrix.loc["part-1", "part-1"]
    assert changes.results.metrics.forgetting == pytest.approx(forgotten)

    with brought.forgotten("their_scores"):  # a new process that reads
        assert stockpot.open(run.path).results == run.results
        with pytest.raises(StockpotError, match="'their_scores:agreement', 'their_scores:distance'; read it"):
            stockpot.add(run.path, {"name": "next", "data": {"classes": [1, 2]}}, progress=False)
        assert "their_scores" not in sys.modules
    task = {"name": "next", "data": {"classes": [1, 2]}}
    longer = stockpot.add(run.path, task, allow_code=True, progress=False)
    assert longer.matrix("agreement", start=True).equals(longer.matrix("accuracy", start=True))
    swept = stockpot.whatif(longer, methods=["wise_ft"], points=2, allow_code=True, output=folder / "w", progress=False)
    assert swept.results.primary == "agreement"
    assert swept.matrix("wise_ft", 1.0).loc["next"].equals(longer.matrix("agreement").loc["next"])


def test_a_class_and_a_packages_score_have_settings(folder: Path, recipe: dict[str, Any]) -> None:
    brought.install(folder, "[stockpot.scores]\nmissed = their_scores:Missed\nagreement = their_scores:agreement\n")
    metrics = [{"name": "their_scores:Missed", "scale": 2.0, "label": "twice"}, "missed", "agreement"]
    run = stockpot.run({**recipe, "metrics": metrics}, output=folder / "run", progress=False)
    scores = {name: run.matrix(name, start=True).to_numpy() for name in ("twice", "missed", "agreement")}
    assert scores["missed"] == pytest.approx(1 - scores["agreement"])
    assert scores["twice"] == pytest.approx(2 * scores["missed"])
    assert not run.results.scores["missed"].higher_is_better
    for metric, message in (
        ({"name": "missed", "scal": 1}, r"metrics\.0\.scal: unknown key\. Did you mean 'scale'\?"),
        ("mised", r"metrics\.0: unknown metric 'mised'\. Did you mean 'missed'\?"),
        ("their_scores:CALLS", "neither a function"),
        ("their_scores:agrement", r"their_scores has no 'agrement'\. Did you mean 'agreement'\?"),
        ({"name": "agreement", "better": "bigger"}, "better: should be 'higher' or 'lower'"),
        (lambda predictions, labels: 0.5, "has no name by which a resumed run would find it"),
    ):
        with pytest.raises(StockpotError, match=message):
            stockpot.run({**recipe, "metrics": [metric]}, output=folder / "other", progress=False)
    assert not (folder / "other").exists()


def test_a_function_that_fails_is_one_line_with_its_place(folder: Path, recipe: dict[str, Any]) -> None:
    for name, reason in (("broken", "AttributeError"), ("words", "ValueError: could not convert")):
        metrics = ["accuracy", f"their_scores:{name}"]
        with pytest.raises(StockpotError) as error:
            stockpot.run({**recipe, "metrics": metrics}, output=folder / name, progress=False)
        assert str(error.value).startswith(f"metrics: {name} on 'part-1': ") and reason in str(error.value)
        assert "\n" not in str(error.value)
    line = next(number for number, text in enumerate(CODE.splitlines(), 1) if "labels.nothing" in text)
    with pytest.raises(StockpotError, match=rf"their_scores\.py, line {line}: "):
        stockpot.run({**recipe, "metrics": ["their_scores:broken"]}, output=folder / "again", progress=False)
