"""A sweep over a run's checkpoints in words: its findings, and its rows for the terminal and for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stockpot.evaluation.metrics import average_accuracy, newest_accuracy, past_accuracy
from stockpot.report.formatting import MISSING, opening, score
from stockpot.results import WhatIf, WhatIfMethod, WhatIfPoint

if TYPE_CHECKING:
    from rich.table import Table

PLAIN, START = "plain fine-tuning", "start model"
SYMBOLS = {"alpha": "α", "scale": "λ"}


class Row(NamedTuple):
    """One method, at its best and at its knee."""

    name: str
    best: str
    average: str
    past: str
    newest: str
    knee: str
    knee_past: str
    knee_newest: str
    real: str


def valued(method: WhatIfMethod, point: WhatIfPoint) -> str:
    """`"α = 0.3"`; the dash where the method has no strength."""
    return MISSING if method.key is None else f"{SYMBOLS[method.key]} = {point.value:g}"


def is_exact(point: WhatIfPoint) -> bool:
    """Whether a real run gives the scores after the last task."""
    return point.exact[-1]


def by_rank(whatif: WhatIf) -> list[tuple[str, WhatIfMethod]]:
    """The methods by the average accuracy of their best points, best first."""

    def average(item: tuple[str, WhatIfMethod]) -> float:
        found = item[1].points[item[1].best].metrics.average_accuracy
        assert found is not None, "every task was evaluated"
        return -found if whatif.plain.higher_is_better else found

    return sorted(whatif.methods.items(), key=average)


def findings(whatif: WhatIf) -> list[str]:
    """One sentence a method, best first."""
    return [_finding(name, method, whatif) for name, method in by_rank(whatif)]


def _finding(name: str, method: WhatIfMethod, whatif: WhatIf) -> str:
    def told(point: WhatIfPoint) -> str:
        past, newest = point.metrics.past_accuracy, point.metrics.newest_accuracy
        return f"{score(past, whatif.unit)} on earlier tasks and {score(newest, whatif.unit)} on the newest"

    top = method.points[method.best]
    average = score(top.metrics.average_accuracy, whatif.unit)
    plain = f"plain fine-tuning {score(whatif.plain_metrics.average_accuracy, whatif.unit)}"
    found = told(top)
    if method.key is None:
        return f"{opening(name)} scores {average} on average ({plain}): {found}."
    where = valued(method, top) + ("" if is_exact(top) else " (post-hoc)")
    text = f"{opening(name)} scores best on average at {where}, with {average} ({plain}): {found}"
    if method.knee is None:
        return f"{text}. There is no knee: no value lies beyond the straight line between the ends of its trade-off."
    if method.knee == method.best:
        return f"{text}. This is the knee, too."
    bend = method.points[method.knee]
    return f"{text}. The knee is at {valued(method, bend)}: {told(bend)}."


def rows(whatif: WhatIf) -> list[Row]:
    """Plain fine-tuning and the start model, then the methods, best first."""

    def written(value: float | None) -> str:
        return score(value, whatif.unit)

    plain = whatif.plain_metrics
    start = [whatif.start] * len(whatif.start)  # the last row is what these three read
    plainly = (plain.average_accuracy, plain.past_accuracy, plain.newest_accuracy)
    untouched = (average_accuracy(start), past_accuracy(start), newest_accuracy(start))
    nothing = (MISSING, MISSING, MISSING)
    made = [
        Row(name, MISSING, written(average), written(past), written(newest), *nothing, MISSING)
        for name, (average, past, newest) in ((PLAIN, plainly), (START, untouched))
    ]
    for name, method in by_rank(whatif):
        top = method.points[method.best]
        m = top.metrics
        bend = None if method.knee is None else method.points[method.knee]
        knee = nothing
        if bend is not None:
            knee = (valued(method, bend), written(bend.metrics.past_accuracy), written(bend.metrics.newest_accuracy))
        best = (written(m.average_accuracy), written(m.past_accuracy), written(m.newest_accuracy))
        made.append(Row(opening(name), valued(method, top), *best, *knee, "exact" if is_exact(top) else "post-hoc"))
    return made


def point_rows(method: WhatIfMethod, unit: str) -> list[tuple[str, list[str]]]:
    """Every point of a method after the last task."""
    found = []
    for point in method.points:
        m = point.metrics
        values = [m.average_accuracy, m.past_accuracy, m.newest_accuracy, m.forgetting]
        real = "exact" if is_exact(point) else f"exact to task {sum(point.exact)}"
        found.append((valued(method, point), [*(score(value, unit) for value in values), real]))
    return found


def whatif_table(whatif: WhatIf) -> Table:
    """The best value and the knee of every method, for a terminal of 100 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"what if: {whatif.run}"), box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    headings = ("best", "average", "earlier\ntasks", "newest\ntask", "knee", "earlier\ntasks", "newest\ntask")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("a real\nrun", no_wrap=True)
    for row in rows(whatif):
        table.add_row(*row)
    return table
