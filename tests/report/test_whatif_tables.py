"""What the table of a sweep shows of best values, knees and controls, each in a case in which it would be false."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from stockpot.evaluation.metrics import stream_metrics
from stockpot.report.formatting import MISSING
from stockpot.report.terminal import whatif_table
from stockpot.report.whatif_tables import NO_KNEE, NOTHING_TRADED, WHATIF_HEADINGS, point_rows, whatif_rows
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


def cell(whatif: WhatIf, heading: str) -> str:
    """The method's cell in the first column of this heading."""
    return whatif_rows(whatif)[-1].values[WHATIF_HEADINGS.index(heading)]


def test_the_best_of_several_values_is_shown_with_those_that_equal_it() -> None:
    single = sweep((0.8, 0.7), (0.2, 0.9))
    assert (cell(single, "best"), cell(single, "average")) == ("λ = 0", "0.750")
    assert whatif_rows(single)[0].values[1] == "0.550"  # plain fine-tuning
    assert cell(sweep((0.7, 0.8), (0.8, 0.7), (0.2, 0.9), (0.75, 0.75)), "best") == "λ = 0 (or 0.5 and 1.5)"


def test_a_value_that_is_alone_is_called_so() -> None:
    alone = sweep((0.8, 0.7))
    assert (cell(alone, "best"), cell(alone, "knee")) == ("λ = 0 (only)", MISSING)


def test_why_there_is_no_knee() -> None:
    assert cell(sweep((0.8, 0.2), (0.5, 0.5), (0.2, 0.8)), "knee") == NO_KNEE
    assert cell(sweep((0.8, 0.9), (0.5, 0.5), (0.2, 0.8)), "knee") == NOTHING_TRADED
    assert cell(sweep((0.2, 0.3), (0.5, 0.5), lower=True), "knee") == NOTHING_TRADED
    bent = sweep((0.9, 0.1), (0.8, 0.8), (0.1, 0.9), best=1, knee=1)
    assert cell(bent, "best") == cell(bent, "knee") == "λ = 0.5"


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
        points = point_rows(found.methods["task_arithmetic"], found)
        assert [values[-1] for _, values in points] == ["exact" if real else "exact to task 1" for real in exact]


def test_controls_have_their_direction_and_a_column_only_where_there_are_any() -> None:
    losses = sweep((3.0, 3.0), (2.0, 4.5), lower=True, controls=([4.1, 4.2, 4.5], [4.1, 4.1, 4.0], [4.1, 4.2, 4.3]))
    assert [row.controls for row in whatif_rows(losses)] == [["−0.400"], ["0"], ["+0.100"]]
    assert [str(column.header) for column in whatif_table(losses).columns][-2] == "general\nchange"
    console = Console(width=200)
    with console.capture() as capture:
        console.print(whatif_table(losses))
    assert max(len(line.rstrip()) for line in capture.get().splitlines()) <= 80
    without = sweep((0.8, 0.7), (0.2, 0.9))
    assert len(whatif_table(without).columns) == len(whatif_table(losses).columns) - 1
    assert all(row.controls == [] for row in whatif_rows(without))
