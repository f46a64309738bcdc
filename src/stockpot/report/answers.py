"""The first three of the questions that a comparison answers: who keeps most, who learns best, what each costs.

Ranks and means are told as such. That one method is better than another is `sentences.findings`' to say, the answer to
the fourth question: is the difference real?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stockpot.evaluation.statistics import lower_is_better
from stockpot.methods import role_of
from stockpot.report.findings import NONE_SHOWN, findings
from stockpot.report.formatting import (
    bytes_text,
    capitalized,
    changes_words,
    design_of_all,
    kept_words,
    listing,
    metric_title,
    ranked_by,
    reference,
    relative_time,
    score,
    score_with_interval,
    seconds,
    signed,
    times,
    title,
)
from stockpot.report.pairwise import pairwise_differences
from stockpot.report.search_ends import NO_COMPARISON
from stockpot.results import Comparison, Difference, MethodSummary

Ranked = list[tuple[str, MethodSummary]]


class Answer(NamedTuple):
    """A question, and the sentences that answer it."""

    question: str
    sentences: list[str]


def answer_questions(comparison: Comparison) -> list[Answer]:
    """The four questions, in this order; the fourth's sentences are those that the comparison carries, if it does."""
    return [
        Answer("Who keeps most?", _keeps(comparison)),
        Answer("Who learns best?", _learns(comparison)),
        Answer("What does each cost?", _costs(comparison)),
        Answer("Is the difference real?", comparison.sentences or findings(comparison)),
    ]


def _keeps(comparison: Comparison) -> list[str]:
    found = [_first(comparison, "average_accuracy"), _references(comparison, "average_accuracy")]
    found += [_control(comparison, name) for name in next(iter(comparison.methods.values())).controls]
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
            f"({design_of_all(comparison)})."
        )
    return [sentence for sentence in found if sentence]


def _learns_less(summary: MethodSummary) -> bool:
    versus = summary.versus_sequential
    return any(metric in versus and versus[metric].verdict == "worse" for metric in ("newest_accuracy", "plasticity"))


def _contenders(comparison: Comparison, metric: str) -> Ranked:
    """The methods that were measured, best mean first, without floor and ceiling."""
    rows = ranked_by(comparison, metric, lower_is_better(metric, comparison.higher_is_better))
    return [(label, s) for label, s in rows if role_of(s.method) == "rival" and getattr(s, metric).mean is not None]


def _first(comparison: Comparison, metric: str) -> str:
    """The three first by their means, what cannot be told apart from the first, and whether plain training beats it.

    "Ranks first" is said of a method only that is told apart from every other, and is not behind plain fine-tuning.
    """
    rows = _contenders(comparison, metric)
    if not rows:
        return ""

    def with_mean(row: tuple[str, MethodSummary]) -> str:
        return f"{title(row[0])} ({score_with_interval(getattr(row[1], metric), comparison.unit)})"

    what, behind = metric_title(metric, comparison.primary), _behind(comparison, metric, rows[0][1])
    if len(rows) == 1:
        label, summary = rows[0]
        mean = score_with_interval(getattr(summary, metric), comparison.unit)
        return f"The only method beside the references, {title(label)}, has a mean {what} of {mean}{behind} ({design_of_all(comparison)})."  # noqa: E501
    pairs = _pairs_of_first(comparison, metric, rows)
    apart = len(pairs) == len(rows) - 1 and all(found.verdict in ("better", "worse") for found in pairs.values())
    place = "ranks first" if apart and not behind else "has the best mean"
    best = getattr(rows[0][1], metric).mean
    equal = [title(label) for label, summary in rows[1:] if getattr(summary, metric).mean == best]
    shared = f", equalled by {listing(equal)}" if equal else ""
    then = listing([with_mean(row) for row in rows[1:3]])
    text = f"By mean {what}, {with_mean(rows[0])} {place}{shared}{behind}, then {then}"
    if len(rows) > 3:
        text += f", of {len(rows)} methods"
    return f"{text}; {design_of_all(comparison)}.{_apart(pairs, rows)}"


def _behind(comparison: Comparison, metric: str, summary: MethodSummary) -> str:
    """`", behind sequential fine-tuning (6.80)"`; empty where the method's mean is the better one, or there is none."""
    base = reference(comparison)
    plain = getattr(comparison.methods[base], metric).mean if base is not None else None
    own = getattr(summary, metric).mean
    if base is None or plain is None or own is None:
        return ""
    lower = lower_is_better(metric, comparison.higher_is_better)
    if own == plain:
        return f", equal to {title(base)}'s"
    return f", behind {title(base)} ({score(plain, comparison.unit)})" if (plain < own) == lower else ""


def _control(comparison: Comparison, name: str) -> str:
    """What became of a control under each method, described: `sentences.findings` says what is shown."""
    rows = [(label, s.controls[name]) for label, s in comparison.methods.items()]
    known = [(label, one) for label, one in rows if one.change.mean is not None]
    if not known:
        return ""
    known.sort(key=lambda row: -(row[1].change.mean or 0.0))
    parts = [
        f"{signed(one.change.mean, comparison.unit)} after {title(label)}"
        + ("" if one.worst.mean == one.change.mean else f" (at its worst {signed(one.worst.mean, comparison.unit)})")
        for label, one in known
    ]
    return f"{changes_words(name, parts)} ({design_of_all(comparison)})."


def _pairs_of_first(comparison: Comparison, metric: str, rows: Ranked) -> dict[str, Difference]:
    first = rows[0][0]
    return {
        second if first == label else label: difference
        for (label, second), difference in pairwise_differences(comparison, metric).items()
        if first in (label, second) and difference.n >= 2
    }


def _apart(found: Mapping[str, Difference], rows: Ranked) -> str:
    """What the pairs say of the first: from whom it can be told apart."""
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
        f"{title(label)}, {names[role_of(s.method)]}, has {score(getattr(s, metric).mean, comparison.unit)}"
        for label, s in comparison.methods.items()
        if role_of(s.method) != "rival" and getattr(s, metric).mean is not None
    ]
    return f"{capitalized('; '.join(parts))} ({design_of_all(comparison)})." if parts else ""


def _costs(comparison: Comparison) -> list[str]:
    rows = [(label, s) for label, s in comparison.methods.items() if role_of(s.method) == "rival"]
    if not rows:
        return []
    over = f"({design_of_all(comparison)})"
    found = [
        _time(comparison, rows, over),
        _range(rows, "extra_memory_bytes", "Extra memory while training", _but(comparison, "extra_memory_bytes"), over),
        _stored(rows, _but(comparison, "stored_bytes"), over),
    ]
    keeping = sorted(
        ((s.stored_data_bytes.mean or 0, label) for label, s in rows if s.stored_data_bytes.mean), reverse=True
    )
    if keeping:
        which = listing([f"{title(label)} ({bytes_text(amount)})" for amount, label in keeping])
        rest = len(rows) - len(keeping)
        tail = f"; the other {rest} keep{'s' if rest == 1 else ''} none" if rest else ""
        found.append(f"Examples of past tasks must be kept by {which}{tail} {over}.")
    else:
        found.append(f"No method{_but(comparison, 'stored_data_bytes')} keeps examples of past tasks {over}.")
    return [sentence for sentence in found if sentence]


def _but(comparison: Comparison, field: str) -> str:
    """`" but joint training"`: the references, which are not contestants, that have some of these bytes."""
    references = [(label, s) for label, s in comparison.methods.items() if role_of(s.method) != "rival"]
    found = [title(label) for label, s in references if getattr(s, field).mean]
    return f" but {listing(found)}" if found else ""


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


def _stored(rows: Ranked, but: str, over: str) -> str:
    """Who keeps nothing, and what the others keep: data, models, statistics."""
    none = [title(label) for label, s in rows if not s.stored_bytes.mean]
    keeping = sorted(((s.stored_bytes.mean or 0.0, label, kept_words(s)) for label, s in rows if s.stored_bytes.mean),
                     reverse=True)  # fmt: skip
    if not keeping:
        return f"Stored between tasks, beside the newest model: nothing by any method{but} {over}."
    which = listing([f"{words} by {title(label)}" for _, label, words in keeping], 5)
    nothing = f"nothing by {listing(none)}; " if none else ""
    return f"Stored between tasks, beside the newest model: {nothing}{which} {over}."


def _verdict(summary: MethodSummary, metric: str) -> str:
    found = summary.versus_sequential.get(metric)
    return found.verdict if found else NONE_SHOWN


def _range(rows: Ranked, field: str, what: str, but: str, over: str) -> str:
    """Who needs none, and who most."""

    def amount(summary: MethodSummary) -> float:
        return getattr(summary, field).mean or 0.0

    none = [title(label) for label, s in rows if amount(s) == 0]
    label, summary = max(rows, key=lambda row: amount(row[1]))
    if len(none) == len(rows):
        return f"{what}: none for any method{but} {over}."
    some = sum(amount(s) > 0 for _, s in rows)
    most = f"{'most' if some > 1 else 'only'} for {title(label)}, {bytes_text(amount(summary))}"
    return f"{what}: " + (f"none for {listing(none)}; {most}" if none else most) + f" {over}."
