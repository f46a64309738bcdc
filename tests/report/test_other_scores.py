"""Other scores and controls keep their own unit and direction, in the tables and in the figures."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from stockpot.comparisons.whatif import _left_out
from stockpot.evaluation.metrics import stream_metrics
from stockpot.report import other_scores, whatif_figures
from stockpot.report.findings import run_summary
from stockpot.report.formatting import amount, score, score_with_interval
from stockpot.report.run_page import write_run_report
from stockpot.report.terminal import run_table
from stockpot.results import Estimate, Scores, WhatIf, WhatIfMethod, WhatIfPoint

Factory = Callable[..., Any]
LOSS = Scores(
    matrix=[[1.0, 3.0, 4.0], [2.0, 1.5, 3.5], [3.0, 2.5, 2.0]], initial=[4.0, 4.0, 4.5],
    controls={"noise": [2.0, 2.5, 3.0, 3.5]}, higher_is_better=False, unit="nats per token",
)  # fmt: skip


def with_loss(run: Any, primary: str = "accuracy") -> Any:
    partly = Scores(
        matrix=[[None, 0.5, None]] * 3, initial=[None, 0.0, None], controls={"noise": [None] * 4},
        higher_is_better=True, unit="fraction",
    )  # fmt: skip
    scores = {**run.scores, "loss": LOSS, "exact_match": partly}
    return run.model_copy(update={"scores": scores, "primary": primary, "metrics": stream_metrics(scores[primary])})


def test_each_other_score_has_its_own_row_unit_and_direction(run_of: Factory, tmp_path: Path) -> None:
    run = with_loss(run_of())
    grid = other_scores.other_scores_of_run(run)
    assert grid is not None
    assert grid.headings == [*run.tasks, "(noise)", "average", "forgetting"]
    # Forgetting of a loss: mean of 3 − 1 and 2.5 − 1.5.
    assert grid.rows == [
        ("loss, nats per token ↓", ["3.00", "2.50", "2.00", "3.50", "2.50", "1.50"]),
        ("exact_match ↑", ["—", "0.500", "—", "—", "—", "—"]),
    ]
    from rich.console import Console

    console = Console(width=80, file=StringIO())
    console.print(run_table(run))
    printed = console.file.getvalue()
    assert "loss, nats per token ↓" in printed and "accuracy (fraction, higher is better)" in printed
    page = write_run_report([("run", run)], tmp_path).read_text()
    assert "loss (nats per token, lower is better)" in page and "exact_match of the controls" not in page


def test_a_loss_is_told_as_one(run_of: Factory) -> None:
    [text] = run_summary(with_loss(run_of(), "loss"))
    assert "average loss 2.50 nats per token, loss on the newest task (task2) 2.00 nats per token" in text
    assert "forgetting +1.50 nats per token" in text


def test_controls_and_other_scores_of_a_comparison_are_means_over_runs(comparison_of: Factory) -> None:
    comparison, cells = comparison_of(2)
    cells = {label: [with_loss(run) for run in runs] for label, runs in cells.items()}
    controls, others = other_scores.other_scores_of_comparison(comparison, cells)
    assert controls.headings == ["noise, start", "noise, at the end", "noise, change", "noise, worst change"] and len(
        controls.rows
    ) == len(comparison.methods)
    assert {tuple(values) for _, values in controls.rows} == {("0.500", "0.350", "−0.150", "−0.150")}
    assert others.headings == ["loss, nats per token ↓", "exact_match ↑"]
    assert {tuple(values) for _, values in others.rows} == {("2.50", "—")}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(313.4, "x", "313"), (3301.2, "x", "3,301"), (5.2, "x", "5.20"), (0.5, "fraction", "0.500")],
)
def test_scores_have_three_digits(value: float, unit: str, text: str) -> None:
    assert score(value, unit) == text
    if unit == "x":
        assert amount(-value, unit) == f"{text} x"


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (5.2134, 0.0000853, "5.21 ± 0.00"),
        (0.00928, 0.17, "0.009 ± 0.170"),
        (-0.01456, 0.0182, "−0.0146 ± 0.0182"),
        (186.2, 7.31, "186 ± 7"),
        (9.999, 0.05, "10.0 ± 0.1"),
        (-0.0001, 0.5, "0.000 ± 0.500"),
    ],
)
def test_an_interval_has_the_decimals_of_three_digits(mean: float, half: float, text: str) -> None:
    found = Estimate(mean=mean, low=mean - half, high=mean + half, n=2, values=[])
    assert score_with_interval(found, "nats per token") == text


def test_what_if_turns_the_axes_of_a_loss_and_says_what_has_no_score(run_of: Factory) -> None:
    exact = [True] * 3
    points = [WhatIfPoint(value=v, scores=LOSS, metrics=stream_metrics(LOSS), exact=exact) for v in (0.0, 1.0)]
    method = WhatIfMethod(method={}, key="scale", points=points, best=0, knee=None)
    found = WhatIf(
        run="run", scenario="language", tasks=["a", "b", "c"], seed=0, primary="loss", unit=LOSS.unit, plain=LOSS,
        plain_metrics=stream_metrics(LOSS), start=[4.0, 4.0, 4.5], methods={"ties": method}, notes=[], versions={},
        commit=None,
    )  # fmt: skip
    for layer in whatif_figures.tradeoff_figure(found).spec["layer"]:
        assert layer["encoding"]["x"]["scale"]["reverse"] and layer["encoding"]["y"]["scale"]["reverse"]
    averages = whatif_figures.averages_figure(found).spec["layer"]
    assert all("lower is better" in layer["encoding"]["y"]["title"] for layer in averages)
    assert _left_out(["ties"], {"ties": method}, 3, "perplexity") == [
        "ties at scale = 2 has no finite perplexity: left out."
    ]
