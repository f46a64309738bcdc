"""What a sweep says of best values, knees and controls, each in a case in which it would be false."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from stockpot.evaluation.metrics import stream_metrics
from stockpot.report.whatif_tables import whatif_findings, whatif_rows, whatif_table
from stockpot.results import Scores, WhatIf, WhatIfMethod, WhatIfPoint

Both = tuple[float, float]  # on the earlier task and on the newest, at the end


def scored(both: Both, control: Sequence[float] = (), lower: bool = False) -> Scores:
    past, newest = both
    return Scores(
        matrix=[[0.9, None], [past, newest]],
        initial=[0.1, 0.1],
        controls={"general": list(control)} if control else {},
        higher_is_better=not lower,
        unit="nats" if lower else "fraction",
    )


def sweep(
    *points: Both,
    best: int = 0,
    knee: int | None = None,
    exact: Sequence[bool] = (),
    controls: Sequence[Sequence[float]] = (),
    lower: bool = False,
) -> WhatIf:
    """A sweep of Task Arithmetic at λ = 0, 0.5, 1, …; `controls` are of plain fine-tuning, then of each point."""
    found = []
    for number, both in enumerate(points):
        scores = scored(both, controls[number + 1] if controls else (), lower)
        real = exact[number] if exact else True
        found.append(WhatIfPoint(value=number / 2, scores=scores, metrics=stream_metrics(scores), exact=[True, real]))
    plain = scored((0.2, 0.9), controls[0] if controls else (), lower)
    method = WhatIfMethod(method={}, key="scale", points=found, best=best, knee=knee)
    return WhatIf(
        run="run", scenario="class-incremental", tasks=["a", "b"], seed=0, primary="loss" if lower else "accuracy",
        unit=plain.unit, plain=plain, plain_metrics=stream_metrics(plain), start=[0.1, 0.1],
        methods={"task_arithmetic": method}, notes=[], versions={}, commit=None,
    )  # fmt: skip


def test_the_best_of_several_values_is_named_with_those_that_equal_it() -> None:
    [single] = whatif_findings(sweep((0.8, 0.7), (0.2, 0.9)))
    assert "Task Arithmetic scores best on average at λ = 0, with 0.750 (plain fine-tuning 0.550)" in single
    assert "equalled" not in single
    [tied] = whatif_findings(sweep((0.7, 0.8), (0.8, 0.7), (0.2, 0.9), (0.75, 0.75)))
    assert "at λ = 0 (equalled at λ = 0.5 and λ = 1.5)" in tied


def test_a_value_that_is_alone_is_not_called_the_best() -> None:
    [alone] = whatif_findings(sweep((0.8, 0.7)))
    assert "best" not in alone and "knee" not in alone
    assert alone.startswith("Task Arithmetic has a score at one value only, λ = 0: 0.750 on average")


def test_why_there_is_no_knee() -> None:
    [straight] = whatif_findings(sweep((0.8, 0.2), (0.5, 0.5), (0.2, 0.8)))
    assert "There is no knee: no value lies beyond the straight line" in straight
    [untraded] = whatif_findings(sweep((0.8, 0.9), (0.5, 0.5), (0.2, 0.8)))
    assert "There is no knee: one value is best on earlier tasks and on the newest" in untraded
    [losses] = whatif_findings(sweep((0.2, 0.3), (0.5, 0.5), lower=True))
    assert "one value is best on earlier tasks and on the newest" in losses
    [bent] = whatif_findings(sweep((0.9, 0.1), (0.8, 0.8), (0.1, 0.9), best=1, knee=1))
    assert bent.endswith("This is the knee, too.")


def test_a_post_hoc_value_is_never_passed_off_as_exact() -> None:
    """The best value may be exact where the knee is not, and the other way round."""
    curve = ((0.9, 0.3), (0.8, 0.6), (0.3, 0.99))
    for best, knee, exact, real in (
        (1, 1, (True, True, True), "exact"),
        (1, 1, (True, False, True), "post-hoc"),
        (2, 1, (True, False, True), "best only"),
        (1, 2, (True, False, True), "knee only"),
        (1, 0, (False, False, True), "post-hoc"),
    ):
        found = sweep(*curve, best=best, knee=knee, exact=exact)
        assert whatif_rows(found)[-1].real == real
        [text] = whatif_findings(found)
        at_best, _, at_knee = text.partition("The knee is at")
        assert ("(post-hoc)" in at_best) == (not exact[best])
        assert ("(post-hoc)" in at_knee) == (bool(at_knee) and not exact[knee])


def test_controls_are_told_by_their_direction_and_only_where_there_are_any() -> None:
    losses = sweep((3.0, 3.0), (2.0, 4.5), lower=True, controls=([4.1, 4.2, 4.5], [4.1, 4.1, 4.0], [4.1, 4.2, 4.3]))
    [_, told] = whatif_findings(losses)
    assert told == (
        "general, never trained on, changed since the start by −0.400 after plain fine-tuning and +0.100 after Task "
        "Arithmetic at λ = 0; below zero is worse (1 seed, so no interval)."
    )
    assert [row.controls for row in whatif_rows(losses)] == [["−0.400"], ["0"], ["+0.100"]]
    assert [str(column.header) for column in whatif_table(losses).columns][-2] == "general\nchange"
    console = Console(width=200)
    with console.capture() as capture:
        console.print(whatif_table(losses))
    assert max(len(line.rstrip()) for line in capture.get().splitlines()) <= 100
    without = sweep((0.8, 0.7), (0.2, 0.9))
    assert len(whatif_findings(without)) == 1 and len(whatif_table(without).columns) == 9
    assert all(row.controls == [] for row in whatif_rows(without))
