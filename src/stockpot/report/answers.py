"""The first three of the questions that a comparison answers: who keeps most, who learns best, what each costs.

Ranks and means are told as such. That one method is better than another is `sentences.findings`' to say, the answer to
the fourth question: is the difference real?
"""

from __future__ import annotations

from typing import NamedTuple

from stockpot.evaluation.statistics import lower_is_better
from stockpot.report.ends import NO_COMPARISON
from stockpot.report.formatting import (
    all_runs,
    begin,
    listing,
    named,
    ranked_by,
    reference,
    relative_time,
    role,
    score,
    seconds,
    size,
    spread_of_score,
    times,
    title,
)
from stockpot.report.pairs import differences
from stockpot.report.sentences import NONE_SHOWN, findings
from stockpot.results import Comparison, MethodSummary

Ranked = list[tuple[str, MethodSummary]]


class Answer(NamedTuple):
    """A question, and the sentences that answer it."""

    question: str
    sentences: list[str]


def answers(comparison: Comparison) -> list[Answer]:
    """The four questions, in this order; the fourth's sentences are those that the comparison carries, if it does."""
    return [
        Answer("Who keeps most?", _keeps(comparison)),
        Answer("Who learns best?", _learns(comparison)),
        Answer("What does each cost?", _costs(comparison)),
        Answer("Is the difference real?", comparison.sentences or findings(comparison)),
    ]


def _keeps(comparison: Comparison) -> list[str]:
    found = [_first(comparison, "average_accuracy"), _references(comparison, "average_accuracy")]
    if forgetting := _first(comparison, "forgetting"):
        least = _contenders(comparison, "forgetting")[:3]
        unlearned = [title(label) for label, summary in least if _learns_less(summary)]
        if unlearned:
            forgetting += f" Shown to have learnt less than sequential fine-tuning, too: {listing(unlearned)}."
        found.append(forgetting)
    return [sentence for sentence in found if sentence]


def _learns(comparison: Comparison) -> list[str]:
    found = []
    for metric in ("newest_accuracy", "plasticity"):
        found += [_first(comparison, metric), _references(comparison, metric)]
    worse = [title(label) for label, s in _contenders(comparison, "newest_accuracy") if _learns_less(s)]
    if worse:
        found.append(
            f"Shown to learn less than sequential fine-tuning, the newest task or all of them: {listing(worse)} "
            f"({all_runs(comparison)})."
        )
    return [sentence for sentence in found if sentence]


def _learns_less(summary: MethodSummary) -> bool:
    versus = summary.versus_sequential
    return any(metric in versus and versus[metric].verdict == "worse" for metric in ("newest_accuracy", "plasticity"))


def _contenders(comparison: Comparison, metric: str) -> Ranked:
    """The methods that were measured, best mean first, without floor and ceiling."""
    rows = ranked_by(comparison, metric, lower_is_better(metric, comparison.higher_is_better))
    return [(label, s) for label, s in rows if not role(s.method) and getattr(s, metric).mean is not None]


def _first(comparison: Comparison, metric: str) -> str:
    """The three first by their means, and what cannot be told apart from the first."""
    rows = _contenders(comparison, metric)
    if not rows:
        return ""

    def with_mean(row: tuple[str, MethodSummary]) -> str:
        return f"{title(row[0])} ({spread_of_score(getattr(row[1], metric), comparison.unit)})"

    text = f"By mean {named(metric, comparison.primary)}, {with_mean(rows[0])} ranks first"
    if len(rows) > 1:
        text += f", then {listing([with_mean(row) for row in rows[1:3]])}"
    if len(rows) > 3:
        text += f", of {len(rows)} methods"
    return f"{text}; {all_runs(comparison)}.{_apart(comparison, metric, rows)}"


def _apart(comparison: Comparison, metric: str, rows: Ranked) -> str:
    """What the pairs say of the first: from whom it can be told apart."""
    first = rows[0][0]
    found = {
        second if first == label else label: difference
        for (label, second), difference in differences(comparison, metric).items()
        if first in (label, second) and difference.n >= 2
    }
    alike = [title(label) for label, _ in rows if label in found and found[label].verdict == NONE_SHOWN]
    barred = [title(label) for label, _ in rows if label in found and found[label].verdict == NO_COMPARISON]
    if not found:
        return ""
    if barred:
        apart = f" It cannot be told apart from {listing(alike)}." if alike else ""
        return f"{apart} No comparison with {listing(barred)}, tuned to an end of what was tried."
    if not alike:
        return " It can be told apart from every other method."
    if len(alike) == len(found) > 1:
        return " It cannot be told apart from any other method."
    return f" It cannot be told apart from {listing(alike)}."


def _references(comparison: Comparison, metric: str) -> str:
    """Where the floor and the ceiling stand."""
    names = {"floor": "the floor", "ceiling": "the ceiling"}
    parts = [
        f"{title(label)}, {names[role(s.method)]}, has {score(getattr(s, metric).mean, comparison.unit)}"
        for label, s in comparison.methods.items()
        if role(s.method) and getattr(s, metric).mean is not None
    ]
    return f"{begin('; '.join(parts))} ({all_runs(comparison)})." if parts else ""


def _costs(comparison: Comparison) -> list[str]:
    rows = [(label, s) for label, s in comparison.methods.items() if not role(s.method)]
    if not rows:
        return []
    over = f"({all_runs(comparison)})"
    found = [
        _time(comparison, rows, over),
        _range(rows, "extra_memory_bytes", "Extra memory while training", over),
        _range(rows, "stored_bytes", "Stored between tasks, beside the newest model", over),
    ]
    keeping = sorted(
        ((s.stored_data_bytes.mean or 0, label) for label, s in rows if s.stored_data_bytes.mean), reverse=True
    )
    if keeping:
        which = listing([f"{title(label)} ({size(amount)})" for amount, label in keeping])
        rest = len(rows) - len(keeping)
        tail = f"; the other {rest} keep{'s' if rest == 1 else ''} none" if rest else ""
        found.append(f"Examples of past tasks must be kept by {which}{tail} {over}.")
    else:
        found.append(f"No method keeps examples of past tasks {over}.")
    return [sentence for sentence in found if sentence]


def _time(comparison: Comparison, rows: Ranked, over: str) -> str:
    base = reference(comparison)
    plain = comparison.methods[base] if base is not None else None
    ratios = sorted((ratio, label) for label, s in rows if (ratio := relative_time(s, plain)) is not None)
    if not ratios or plain is None:
        return ""
    (least, fastest), (most, slowest) = ratios[0], ratios[-1]
    text = f"Sequential fine-tuning trains for {seconds(plain.training_seconds.mean)}; "
    if len(ratios) == 1:
        text += f"{title(fastest)} takes {times(least)} that"
    else:
        text += f"the methods take from {times(least)} that ({title(fastest)}) to {times(most)} ({title(slowest)})"
    slower = [s for _, s in rows if _verdict(s, "training_seconds") == "worse"]
    return f"{text}; a longer time is shown for {len(slower)} of {len(rows)} {over}."


def _verdict(summary: MethodSummary, metric: str) -> str:
    found = summary.versus_sequential.get(metric)
    return found.verdict if found else NONE_SHOWN


def _range(rows: Ranked, field: str, what: str, over: str) -> str:
    """Who needs none, and who most."""

    def amount(summary: MethodSummary) -> float:
        return getattr(summary, field).mean or 0.0

    none = [title(label) for label, s in rows if amount(s) == 0]
    label, summary = max(rows, key=lambda row: amount(row[1]))
    if len(none) == len(rows):
        return f"{what}: none for any method {over}."
    some = sum(amount(s) > 0 for _, s in rows)
    most = f"{'most' if some > 1 else 'only'} for {title(label)}, {size(amount(summary))}"
    return f"{what}: " + (f"none for {listing(none)}; {most}" if none else most) + f" {over}."
