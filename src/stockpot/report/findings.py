"""What a person wants to read first: findings where a corrected interval supports them, losses as plainly as wins.

A finding rests on the paired, Holm-corrected differences to sequential fine-tuning that the comparison carries. Where
they do not exclude zero the sentence says that no difference was shown, which is not "equal".
"""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.evaluation.metrics import control_metrics
from stockpot.methods import role_of
from stockpot.report.formatting import (
    MISSING,
    amount,
    control_words,
    design_of_all,
    is_nothing,
    kept_words,
    listing,
    metric_heading,
    metric_title,
    opening,
    percent,
    ranked,
    reference,
    relative_time,
    run_design,
    score,
    title,
)
from stockpot.report.pairwise import pairwise_differences
from stockpot.report.search_ends import NO_COMPARISON, end_sentences
from stockpot.results import Comparison, Difference, MethodSummary, Results

NONE_SHOWN = "no difference shown"
TESTED = ("average_accuracy", "forgetting", "newest_accuracy")
FEW = 5  # methods of which each has a sentence of its own
NAMED = 4  # of more methods


def findings(comparison: Comparison) -> list[str]:
    """What is real: a sentence for each of the best few methods, counts for the rest, and what plain training lost.

    Joint training comes after the methods. Of more than `FEW` methods only the best `NAMED` have a sentence.
    """
    base = reference(comparison)
    if base is None:
        return ["There is no plain sequential fine-tuning among the methods, so there is nothing to compare them with."]
    others = [(label, summary) for label, summary in ranked(comparison) if label != base]
    tested = [(label, summary) for label, summary in others if _pairs(summary) >= 2]
    tested.sort(key=lambda item: role_of(item[1].method) == "ceiling")
    named = tested if len(tested) <= FEW else [row for row in tested if _differs(row[1])][:NAMED]
    sentences = [_method(label, summary, comparison.methods[base], comparison) for label, summary in named]
    if len(tested) > FEW:
        sentences += [
            _verdicts({title(label): summary.versus_sequential[metric] for label, summary in tested},
                      metric_heading(metric, comparison.primary), comparison)
            for metric in TESTED
        ]  # fmt: skip
        sentences += [
            _verdicts({title(label): summary.controls[name].versus_sequential["change"] for label, summary in tested},
                      f"{name}, never trained on,", comparison)
            for name in comparison.methods[base].controls
        ]  # fmt: skip
    untested = [title(label) for label, summary in others if _pairs(summary) < 2]
    if untested:
        whom = f" of {listing(untested)}" if tested else ""
        sentences.append(
            f"One seed shows no spread, so no claim is made{whom}: "
            "an interval needs at least two seeds in common with sequential fine-tuning."
        )
    sentences += _controls(comparison) + _alike(comparison) + end_sentences(comparison) + _own_settings(comparison)
    return sentences + _sequential(comparison.methods[base], comparison)


def _verdicts(tested: Mapping[str, Difference], what: str, comparison: Comparison) -> str:
    """How many are better and worse than plain fine-tuning in one metric, the best few by name."""
    found: dict[str, list[str]] = {"better": [], "worse": [], NONE_SHOWN: [], NO_COMPARISON: []}
    for name, difference in tested.items():
        found[difference.verdict].append(name)
    parts = [
        f"{len(labels)} {verdict} ({listing(labels)})" if labels else f"none {verdict}"
        for verdict, labels in found.items()
        if verdict in ("better", "worse")
    ]
    barred = found[NO_COMPARISON]
    without = f", {NO_COMPARISON} for {len(barred)} ({listing(barred)})" if barred else ""
    return (
        f"{what} against sequential fine-tuning, of {len(tested)} methods: "
        f"{', '.join(parts)}, "
        f"no difference shown for {len(found[NONE_SHOWN])}{without} ({design_of_all(comparison)})."
    )


def _alike(comparison: Comparison) -> list[str]:
    """Which pairs of methods cannot be told apart by their average accuracy."""
    found = {
        pair: d
        for pair, d in pairwise_differences(comparison, "average_accuracy").items()
        if d.n >= 2 and d.verdict != NO_COMPARISON
    }
    alike = [f"{title(a)} and {title(b)}" for (a, b), d in found.items() if d.verdict == NONE_SHOWN]
    if not found:
        return []
    pairs = f"{len(found)} pair{'s' if len(found) != 1 else ''} of methods"
    over = f"by {metric_title('average_accuracy', comparison.primary)} ("
    over += f"{design_of_all(comparison)}, corrected for every pair)"
    if not alike:
        return [
            f"All {pairs} can be told apart {over}." if len(found) > 1 else f"{_only(found)} can be told apart {over}."
        ]
    if len(found) == 1:
        return [f"{_only(found)} cannot be told apart {over}."]
    which = f": {'; '.join(alike)}" if len(alike) <= NAMED else ""
    return [f"{len(alike)} of the {pairs} cannot be told apart {over}{which}."]


def _own_settings(comparison: Comparison) -> list[str]:
    """Which methods were trained otherwise than the rest."""
    own = {title(label): summary.method.get("train") for label, summary in comparison.methods.items()}
    listed = [
        f"{label} ({', '.join(f'{key} {value}' for key, value in train.items())})"
        for label, train in own.items()
        if train
    ]
    return [f"Trained with settings of its own: {listing(listed, len(listed))}."] if listed else []


def _only(found: Mapping[tuple[str, str], Difference]) -> str:
    [(first, second)] = found
    return f"{opening(first)} and {title(second)}"


def run_summary(results: Results) -> list[str]:
    """What one run came to, without a claim: a single run has no interval."""
    metrics, scores = results.metrics, results.scores[results.primary]
    last = results.tasks[len(scores.matrix) - 1] if scores.matrix else None
    if last is None or metrics.average_accuracy is None:
        return ["No task has been learnt and measured yet."]
    count, planned = len(scores.matrix), len(results.recipe.get("tasks") or scores.matrix)
    of = f" of {planned}" if planned > count else ""
    text = f"After {count}{of} task{'s' * (max(count, planned) > 1)}, {title(results.label)} "
    told, average = score(metrics.average_accuracy, scores.unit), metric_title("average_accuracy", results.primary)
    if count == 1:
        average = average.removeprefix("average ")
    if scores.unit == "fraction":
        text += f"scores {told}" + (" on average" if count > 1 else f" on {last}")
    else:
        article = "an" if average[:1] in "aeiou" else "a"
        text += f"has {article} {average} of {told}{'' if scores.unit in average else f' {scores.unit}'}"
        text += "" if count > 1 else f" on {last}"
    if metrics.newest_accuracy is not None and count > 1:
        text += f" and {score(metrics.newest_accuracy, scores.unit)} on the newest, {last}"
    if metrics.forgetting is not None:
        much, worse = amount(metrics.forgetting, scores.unit), metrics.forgetting >= 0
        if is_nothing(metrics.forgetting, scores.unit):
            text += "; earlier tasks are as at their best"
        elif scores.higher_is_better:
            text += f"; earlier tasks {'lost' if worse else 'gained'} {much} against their best"
        else:
            text += f"; earlier tasks are {much} {'worse' if worse else 'better'} than at their best"
    controls = [control_words(name, found, scores.unit) for name, found in control_metrics(scores).items()]
    text += "".join(f"; {words}" for words in controls if words)
    return [f"{text} (1 seed, so no interval)."]


def _pairs(summary: MethodSummary) -> int:
    return max((found.n for found in summary.versus_sequential.values()), default=0)


def _differs(summary: MethodSummary) -> bool:
    tested = [summary.versus_sequential[metric] for metric in TESTED]
    tested += [control.versus_sequential["change"] for control in summary.controls.values()]
    return any(difference.verdict != NONE_SHOWN for difference in tested)


def _method(label: str, summary: MethodSummary, base: MethodSummary, comparison: Comparison) -> str:
    shared = {(cell.order, cell.seed) for cell in base.cells}
    count = run_design(cell for cell in summary.cells if (cell.order, cell.seed) in shared)
    name, versus = title(label), summary.versus_sequential
    forgetting = versus["forgetting"]
    if not _differs(summary):
        return f"No difference shown between {name} and sequential fine-tuning ({count})."

    kept = summary.kept
    if forgetting.verdict == "better" and kept.mean is not None and kept.low is not None and kept.low > 0:
        limits = f"{percent(kept.low).removesuffix(' %')} to {percent(kept.high or kept.low)}"
        verb = f"kept {percent(kept.mean)} ({limits}) of what sequential training lost"
    elif forgetting.verdict in ("better", "worse") and forgetting.mean is not None:
        more = "less" if forgetting.verdict == "better" else "more"
        verb = f"forgot {amount(forgetting.mean, comparison.unit)} {more} than sequential fine-tuning"
    else:
        verb = ""
    clauses = [
        _change(versus["average_accuracy"], "on average", comparison),
        _change(versus["newest_accuracy"], "on the newest task", comparison),
    ]
    clauses += [
        _change(control.versus_sequential["change"], f"on {name}, never trained on", comparison, turned=True)
        for name, control in summary.controls.items()
    ]
    if forgetting.verdict not in ("better", "worse") and forgetting.mean is not None:
        clauses.append(f"{forgetting.verdict} in forgetting")
    found = ", ".join(clause for clause in clauses if clause)
    if not verb:
        return f"{opening(label)} against sequential fine-tuning: {found}{_costs(summary, base)} ({count})."
    return f"{opening(label)} {verb}{_costs(summary, base)}: {found} ({count})."


def _change(found: Difference, where: str, comparison: Comparison, turned: bool = False) -> str:
    """A difference of scores in words: "3.1 points lower …"; better or worse where lower scores are better.

    `turned`: the difference is of changes, whose sign is positive for better whichever way the score runs.
    """
    if found.mean is None:
        return ""
    if found.verdict not in ("better", "worse"):
        return f"{found.verdict} {where}"
    up, down = ("higher", "lower") if comparison.higher_is_better else ("worse", "better")
    if turned and not comparison.higher_is_better:
        up, down = down, up
    return f"{amount(found.mean, comparison.unit)} {up if found.mean > 0 else down} {where}"


def _costs(summary: MethodSummary, base: MethodSummary) -> str:
    """`, for 0.4 % more training time and nothing stored`, the time only where it can be told from noise."""
    words = kept_words(summary)
    kept = "nothing stored" if words in ("none", MISSING) else f"{words} stored"
    time = _time(summary, base)
    return f", for {time} and {kept}" if time else f", with {kept} and no difference in training time shown"


def _time(summary: MethodSummary, base: MethodSummary) -> str | None:
    """`relative_time` as a percentage; None where neither its averages nor a test tell it from noise."""
    whole, ratio = summary.versus_sequential["training_seconds"], relative_time(summary, base)
    averages = summary.averages.mean and summary.steps.mean == base.steps.mean
    if ratio is None or (whole.verdict == NONE_SHOWN and not averages):
        return None
    return f"{percent(abs(ratio - 1))} {'more' if ratio >= 1 else 'less'} training time"


def _controls(comparison: Comparison) -> list[str]:
    """What became of data that is never trained on, where an interval shows it, under every method."""
    sentences = []
    names = list(next(iter(comparison.methods.values())).controls)
    for name in names:
        found = {label: summary.controls[name].change for label, summary in ranked(comparison)}
        known = {label: one for label, one in found.items() if one.low is not None and one.low != one.high}
        if not known:
            continue
        harmed = [label for label, one in known.items() if one.high is not None and one.high < 0]
        gained = [label for label, one in known.items() if one.low is not None and one.low > 0]
        parts = []
        for labels, way in ((harmed, "worse"), (gained, "better")):
            which = [f"{title(label)} (by {amount(known[label].mean or 0.0, comparison.unit)})" for label in labels]
            if which:
                parts.append(f"{way} than at the start after {listing(which, FEW)}")
        rest = [title(label) for label in known if label not in harmed and label not in gained]
        if rest:
            parts.append(f"not shown to have changed after {listing(rest, FEW)}")
        interval = f"{100 * comparison.confidence:g} % intervals, not corrected for the number of methods"
        sentences.append(f"{name}, never trained on, is {'; '.join(parts)} ({interval}; {design_of_all(comparison)}).")
    return sentences


def _sequential(base: MethodSummary, comparison: Comparison) -> list[str]:
    """What there was to keep; without it nothing can be said of what a method kept."""
    lost = base.forgetting
    if lost.mean is None or lost.low is None or lost.high is None:
        return []
    interval = f"{100 * comparison.confidence:g} % interval"
    unit, low, high = comparison.unit, lost.low, lost.high
    if low > 0:
        limits = f"{amount(low, unit).partition(' ')[0]} to {amount(high, unit)}"
        much = amount(lost.mean, unit)
        verb = f"lost {much}" if comparison.higher_is_better else f"became {much} worse"
        return [
            f"Sequential fine-tuning itself {verb} on earlier tasks ({interval} {limits}, {run_design(base.cells)})."
        ]
    return [
        f"Sequential fine-tuning was not shown to forget ({run_design(base.cells)}), "
        "so there is nothing of which a method could be said to have kept a share."
    ]
