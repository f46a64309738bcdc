"""A sweep over a run's checkpoints in words: its findings, and its rows for the terminal and for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stockpot.evaluation.metrics import average_accuracy, control_metrics, newest_accuracy, past_accuracy
from stockpot.report.formatting import MISSING, changes_words, fit, listing, opening, score, signed, title
from stockpot.results import Scores, WhatIf, WhatIfMethod, WhatIfPoint

if TYPE_CHECKING:
    from rich.table import Table

PLAIN, START = "plain fine-tuning", "start model"
SYMBOLS = {"alpha": "α", "scale": "λ"}


class WhatIfRow(NamedTuple):
    """One method, at its best and at its knee."""

    name: str
    best: str
    average: str
    past: str
    newest: str
    knee: str
    knee_past: str
    knee_newest: str
    controls: list[str]  # of each its change since the start, at the best value
    real: str


def valued(method: WhatIfMethod, point: WhatIfPoint) -> str:
    """`"α = 0.3"`; the dash where the method has no strength."""
    return MISSING if method.key is None else f"{SYMBOLS.get(method.key, method.key)} = {point.value:g}"


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


def whatif_findings(whatif: WhatIf) -> list[str]:
    """One sentence a method, best first, and one a control."""
    found = [_finding(name, method, whatif) for name, method in by_rank(whatif)]
    return [*found, *(_of_control(control, whatif) for control in whatif.plain.controls)]


def _of_control(control: str, whatif: WhatIf) -> str:
    """What became of a control after plain fine-tuning, and after each method at its best value."""
    parts = [f"{change(whatif.plain, control, whatif.unit)} after {PLAIN}"]
    for name, method in by_rank(whatif):
        top = method.points[method.best]
        where = "" if method.key is None else f" at {valued(method, top)}"
        parts.append(f"{change(top.scores, control, whatif.unit)} after {title(name)}{where}{_post_hoc(top)}")
    return f"{changes_words(control, parts)} (1 seed, so no interval)."


def change(scores: Scores, control: str, unit: str) -> str:
    """A control's change since the start, positive for better; the dash where it was not measured."""
    known = control_metrics(scores)
    return signed(known[control].change if control in known else None, unit)


def _post_hoc(point: WhatIfPoint) -> str:
    return "" if is_exact(point) else " (post-hoc)"


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
    where = valued(method, top) + _post_hoc(top)
    if len(method.points) == 1:
        return f"{opening(name)} has a score at one value only, {where}: {average} on average ({plain}), {found}."
    text = f"{opening(name)} scores best on average at {where}{_ties(method)}, with {average} ({plain}): {found}"
    if method.knee is None:
        why = "no value lies beyond the straight line between the ends of its trade-off"
        if _best_at_both(method, whatif):
            why = "one value is best on earlier tasks and on the newest, so nothing is traded"
        return f"{text}. There is no knee: {why}."
    if method.knee == method.best:
        return f"{text}. This is the knee, too."
    bend = method.points[method.knee]
    return f"{text}. The knee is at {valued(method, bend)}{_post_hoc(bend)}: {told(bend)}."


def _ties(method: WhatIfMethod) -> str:
    """`" (equalled at λ = 0.4)"`: the other values of the same average."""
    top = method.points[method.best]
    alike = [
        valued(method, point)
        for point in method.points
        if point is not top and point.metrics.average_accuracy == top.metrics.average_accuracy
    ]
    return f" (equalled at {listing(alike)})" if alike else ""


def _best_at_both(method: WhatIfMethod, whatif: WhatIf) -> bool:
    """Whether one point has the best past and the best newest accuracy of all."""
    pick = max if whatif.plain.higher_is_better else min
    both = [(p.metrics.past_accuracy or 0.0, p.metrics.newest_accuracy or 0.0) for p in method.points]
    return (pick(past for past, _ in both), pick(newest for _, newest in both)) in both


def whatif_rows(whatif: WhatIf) -> list[WhatIfRow]:
    """Plain fine-tuning and the start model, then the methods, best first."""

    def written(value: float | None) -> str:
        return score(value, whatif.unit)

    plain = whatif.plain_metrics
    start = [whatif.start] * len(whatif.start)  # the last row is what these three read
    plainly = (plain.average_accuracy, plain.past_accuracy, plain.newest_accuracy)
    untouched = (average_accuracy(start), past_accuracy(start), newest_accuracy(start))
    controls = list(whatif.plain.controls)
    plain_changes = [change(whatif.plain, control, whatif.unit) for control in controls]
    none = [score(0.0, whatif.unit)] * len(controls)
    nothing = (MISSING, MISSING, MISSING)
    made = [
        WhatIfRow(name, MISSING, written(average), written(past), written(newest), *nothing, changes, MISSING)
        for name, (average, past, newest), changes in ((PLAIN, plainly, plain_changes), (START, untouched, none))
    ]
    for name, method in by_rank(whatif):
        top = method.points[method.best]
        m = top.metrics
        bend = None if method.knee is None else method.points[method.knee]
        knee = nothing
        if bend is not None:
            knee = (valued(method, bend), written(bend.metrics.past_accuracy), written(bend.metrics.newest_accuracy))
        best = (written(m.average_accuracy), written(m.past_accuracy), written(m.newest_accuracy))
        changes = [change(top.scores, control, whatif.unit) for control in controls]
        made.append(WhatIfRow(opening(name), valued(method, top), *best, *knee, changes, _real(top, bend)))
    return made


def _real(top: WhatIfPoint, bend: WhatIfPoint | None) -> str:
    """Whether a real run gives the scores of the row: of the best value, of the knee, of both."""
    exact = [is_exact(point) for point in (top, bend) if point is not None]
    if len(set(exact)) == 1:
        return "exact" if exact[0] else "post-hoc"
    return "best only" if exact[0] else "knee only"


def point_rows(method: WhatIfMethod, whatif: WhatIf) -> list[tuple[str, list[str]]]:
    """Every point of a method after the last task: four metrics, the controls, and what is exact."""
    found, unit = [], whatif.unit
    for point in method.points:
        m = point.metrics
        values = [m.average_accuracy, m.past_accuracy, m.newest_accuracy, m.forgetting]
        real = "exact" if is_exact(point) else f"exact to task {sum(point.exact)}"
        changes = [change(point.scores, control, unit) for control in whatif.plain.controls]
        found.append((valued(method, point), [*(score(value, unit) for value in values), *changes, real]))
    return found


def whatif_table(whatif: WhatIf) -> Table:
    """The best value and the knee of every method, for a terminal of 100 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    first = list(whatif.plain.controls)[:1]  # the sentences have all of them
    padding = (0, 1, 0, 0) if first else (0, 1)
    table = Table(title=Text(f"what if: {whatif.run}"), box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    table.add_column("method", no_wrap=True)
    headings = ("best", "average", "earlier\ntasks", "newest\ntask", "knee", "earlier\ntasks", "newest\ntask")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for control in first:
        table.add_column(Text(f"{fit(control, 8)}\nchange"), justify="right", no_wrap=True)
    table.add_column("a real\nrun", no_wrap=True)
    for row in whatif_rows(whatif):
        table.add_row(*row[:8], *row.controls[:1], row.real)
    return table
