"""The four questions that a comparison answers, each by a table.

Ranks are those of means; whether one method is better than another is for a test to say.
"""

from __future__ import annotations

from typing import NamedTuple

from stockpot.evaluation.statistics import lower_is_better
from stockpot.methods import role_of
from stockpot.report.findings import findings, tested_differences
from stockpot.report.formatting import (
    MISSING,
    bytes_text,
    listing,
    metric_title,
    percent,
    score_with_interval,
    seconds,
    signed,
    times,
    title,
    with_interval,
)
from stockpot.report.method_costs import relative_time, stored_words
from stockpot.report.pairwise import pairwise_differences
from stockpot.report.ranking import design_of_all, over_runs, ranked, ranked_by, reference
from stockpot.report.tables import Column, Grid, method_grid
from stockpot.results import Comparison, Difference, MethodSummary

BEST_MEAN = "best mean"
_TURNED = {"better": "worse", "worse": "better"}  # a verdict, from the other side
_DURATIONS = {"better": "shorter", "worse": "longer"}


class Answer(NamedTuple):
    """A question, the facts that answer it, and a table with a row for each method."""

    question: str
    facts: list[str]
    table: Grid


def answer_questions(comparison: Comparison) -> list[Answer]:
    """The four questions in this order; the facts of the last are the findings that the comparison holds, if any."""
    return [
        Answer("Who keeps most?", _learning_less(comparison), _keeping(comparison)),
        Answer("Who learns best?", [], _learning(comparison)),
        Answer("What does each cost?", [], _costs(comparison)),
        Answer("Is the difference real?", comparison.sentences or findings(comparison), _verdicts(comparison)),
    ]


def methods_overview(comparison: Comparison) -> Grid:
    """The table that a page begins with: what each method keeps, learns and costs, the best average first."""
    base, best = reference(comparison), against_the_best(comparison, "average_accuracy")
    plain, unit = comparison.methods[base] if base is not None else None, comparison.unit
    columns: list[Column] = [
        (_title(comparison, "average_accuracy"), lambda _, s: score_with_interval(s.average_accuracy, unit)),
        ("against the best mean", lambda label, _: best.get(label, MISSING)),
        ("forgetting", lambda _, s: score_with_interval(s.forgetting, unit)),
        ("newest task", lambda _, s: score_with_interval(s.newest_accuracy, unit)),
        ("training", lambda _, s: seconds(s.training_seconds.mean)),
        ("relative", lambda _, s: times(relative_time(s, plain))),
        ("stored between tasks", lambda _, s: stored_words(s)),
    ]
    return method_grid(f"Best average first; {over_runs(comparison)}", ranked(comparison), columns)


def against_the_best(comparison: Comparison, metric: str) -> dict[str, str]:
    """Label → its verdict against the method of the best mean, corrected for every pair; floor and ceiling have none.

    Every method of the best mean is called so. One seed allows no verdict, and one method needs none.
    """
    ranks = ranked_by(comparison, metric, lower_is_better(metric, comparison.higher_is_better))
    means = {label: getattr(s, metric).mean for label, s in ranks if role_of(s.method) == "rival"}
    means = {label: mean for label, mean in means.items() if mean is not None}
    if len(means) < 2:
        return {}
    first = next(iter(means))
    verdicts = {label: BEST_MEAN for label, mean in means.items() if mean == means[first]}
    for (left, right), difference in pairwise_differences(comparison, metric).items():
        if first in (left, right) and difference.n >= 2:
            verdict: str = difference.verdict
            if left == first:
                verdicts.setdefault(right, _TURNED.get(verdict, verdict))
            else:
                verdicts.setdefault(left, verdict)
    return verdicts


def _learning_less(comparison: Comparison) -> list[str]:
    """Who keeps by not learning: shown to learn less than plain fine-tuning, the newest task or all of them."""
    less = [
        title(label)
        for label, s in comparison.methods.items()
        if role_of(s.method) == "rival" and "worse" in (_verdict(s, "newest_accuracy"), _verdict(s, "plasticity"))
    ]
    if not less:
        return []
    return [f"Shown to learn less than sequential fine-tuning: {listing(less, 6)} ({design_of_all(comparison)})."]


def _verdict(summary: MethodSummary, metric: str) -> str:
    versus = summary.versus_sequential
    return versus[metric].verdict if metric in versus else MISSING


def _keeping(comparison: Comparison) -> Grid:
    best, average = against_the_best(comparison, "average_accuracy"), _title(comparison, "average_accuracy")
    controls: list[Column] = [
        (f"{name} since the start", lambda _, s, name=name: signed(s.controls[name].change.mean, comparison.unit))  # type: ignore[misc]
        for name in next(iter(comparison.methods.values())).controls
    ]
    return method_grid(
        f"Best {average} first; {over_runs(comparison)}",
        ranked(comparison),
        [
            (average, lambda _, s: score_with_interval(s.average_accuracy, comparison.unit)),
            ("against the best mean", lambda label, _: best.get(label, MISSING)),
            ("forgetting", lambda _, s: score_with_interval(s.forgetting, comparison.unit)),
            ("kept", lambda _, s: with_interval(s.kept, lambda share: MISSING if share is None else percent(share))),
            *controls,
        ],
    )


def _learning(comparison: Comparison) -> Grid:
    best, newest = against_the_best(comparison, "newest_accuracy"), _title(comparison, "newest_accuracy")
    return method_grid(
        f"Best {newest} first; {over_runs(comparison)}",
        ranked_by(comparison, "newest_accuracy", not comparison.higher_is_better),
        [
            (newest, lambda _, s: score_with_interval(s.newest_accuracy, comparison.unit)),
            ("against the best mean", lambda label, _: best.get(label, MISSING)),
            ("against plain fine-tuning", lambda _, s: _verdict(s, "newest_accuracy")),
            ("plasticity", lambda _, s: score_with_interval(s.plasticity, comparison.unit)),
            ("against plain fine-tuning", lambda _, s: _verdict(s, "plasticity")),
        ],
    )


def _costs(comparison: Comparison) -> Grid:
    base = reference(comparison)
    plain = comparison.methods[base] if base is not None else None

    def longer(_: str, summary: MethodSummary) -> str:
        verdict = _verdict(summary, "training_seconds")
        return _DURATIONS.get(verdict, verdict)

    return method_grid(
        f"Shortest training first, relative to plain fine-tuning; means over {design_of_all(comparison)}",
        sorted(comparison.methods.items(), key=lambda item: relative_time(item[1], plain) or 0.0),
        [
            ("training", lambda _, s: seconds(s.training_seconds.mean)),
            ("relative", lambda _, s: times(relative_time(s, plain))),
            ("shown to be", longer),
            ("extra memory", lambda _, s: bytes_text(s.extra_memory_bytes.mean)),
            ("stored between tasks", lambda _, s: stored_words(s)),
        ],
    )


def _verdicts(comparison: Comparison) -> Grid:
    """Every method's corrected differences to sequential fine-tuning."""
    tested = {
        label: tested_differences(s, comparison.primary) for label, s in ranked(comparison) if s.versus_sequential
    }

    def cell(difference: Difference) -> str:
        if difference.mean is None:
            return MISSING
        if difference.low is None or difference.high is None:
            return f"{signed(difference.mean, comparison.unit)}: {difference.verdict}"
        low, high = signed(difference.low, comparison.unit), signed(difference.high, comparison.unit)
        return f"{signed(difference.mean, comparison.unit)} ({low} to {high}): {difference.verdict}"

    columns: list[Column] = [
        (what, lambda label, _, what=what: cell(tested[label][what]))  # type: ignore[misc]
        for what in next(iter(tested.values()), {})
    ]
    pairs = "orders" if len(comparison.orders) > 1 else "seeds"
    caption = (
        f"Differences to sequential fine-tuning, paired over the same {pairs}, with {100 * comparison.confidence:g} % "
        f"intervals corrected for the number of methods; {design_of_all(comparison)}"
    )
    return method_grid(caption, [(label, s) for label, s in ranked(comparison) if label in tested], columns)


def _title(comparison: Comparison, metric: str) -> str:
    return metric_title(metric, comparison.primary)
