"""What is shown, one fact a line: verdicts where a corrected interval supports them, losses as plainly as wins.

A verdict rests on the paired, Holm-corrected differences to sequential fine-tuning that the comparison holds. Where
they do not exclude zero it is "no difference shown", which is not "equal".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from stockpot.evaluation.metrics import control_metrics
from stockpot.methods import role_of
from stockpot.printing import counted
from stockpot.report.formatting import (
    MISSING,
    amount,
    control_words,
    listing,
    metric_heading,
    metric_title,
    opening,
    percent,
    score,
    signed_amount,
    title,
)
from stockpot.report.lost_classes import lost_sentence
from stockpot.report.method_costs import relative_time, stored_words
from stockpot.report.pairwise import pairwise_differences
from stockpot.report.ranking import design_of_all, ranked, reference, run_design
from stockpot.report.search_ends import NO_COMPARISON, end_sentences
from stockpot.results import Comparison, Difference, MethodSummary, Results

NONE_SHOWN = "no difference shown"
VERDICTS = ("better", "worse", NONE_SHOWN, NO_COMPARISON)
TESTED = ("average_accuracy", "forgetting", "newest_accuracy")
FEW = 5  # methods, each with a line of its own
NAMED = 4  # of more methods

Tested = list[tuple[str, MethodSummary]]


def findings(comparison: Comparison) -> list[str]:
    """A line for each of the best few methods, counts of verdicts for the rest, and what plain training forgot.

    Joint training comes after the methods. Of more than `FEW` methods only the best `NAMED` have a line.
    """
    base = reference(comparison)
    if base is None:
        return ["There is no plain sequential fine-tuning among the methods, so there is nothing to compare them with."]
    others = [(label, summary) for label, summary in ranked(comparison) if label != base]
    tested = [(label, summary) for label, summary in others if _pairs(summary) >= 2]
    tested.sort(key=lambda item: role_of(item[1].method) == "ceiling")
    named = tested if len(tested) <= FEW else [row for row in tested if _differs(row[1])][:NAMED]
    lines = [_method(label, summary, comparison.methods[base], comparison) for label, summary in named]
    lines += _counts(tested, comparison) if len(tested) > FEW else []
    untested = [title(label) for label, summary in others if _pairs(summary) < 2]
    if untested:
        lines.append(
            f"No claim about {listing(untested)}: an interval needs at least two seeds in common with sequential "
            "fine-tuning, and one seed shows no spread."
        )
    lines += [*_controls(comparison), *_alike(comparison), *end_sentences(comparison), *_own_settings(comparison)]
    return [*lines, *_sequential(comparison.methods[base], comparison)]


def tested_differences(summary: MethodSummary, primary: str) -> dict[str, Difference]:
    """What is tested against sequential fine-tuning, by its name in prose: three metrics, and each control's change."""
    tested = {metric_title(metric, primary): summary.versus_sequential[metric] for metric in TESTED}
    controls = {
        f"{name} (never trained on)": control.versus_sequential["change"] for name, control in summary.controls.items()
    }
    return tested | controls


def _pairs(summary: MethodSummary) -> int:
    return max((difference.n for difference in summary.versus_sequential.values()), default=0)


def _differs(summary: MethodSummary) -> bool:
    return any(difference.verdict != NONE_SHOWN for difference in tested_differences(summary, "").values())


def _method(label: str, summary: MethodSummary, base: MethodSummary, comparison: Comparison) -> str:
    shared = {(cell.order, cell.seed) for cell in base.cells}
    design = run_design(cell for cell in summary.cells if (cell.order, cell.seed) in shared)
    start = f"{opening(label)} against sequential fine-tuning: "
    if not _differs(summary):
        return f"{start}{NONE_SHOWN} ({design})."
    by_verdict: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for what, difference in tested_differences(summary, comparison.primary).items():
        if difference.mean is not None:
            shown = difference.verdict in ("better", "worse")
            by = f" ({signed_amount(difference.mean, comparison.unit)})" if shown else ""
            by_verdict[difference.verdict].append(what + by)
    parts = [f"{verdict} in {listing(names, len(names))}" for verdict, names in by_verdict.items() if names]
    kept = summary.kept
    if (
        summary.versus_sequential["forgetting"].verdict == "better"
        and kept.mean is not None
        and kept.low is not None
        and kept.low > 0
    ):
        low, high = percent(kept.low).removesuffix(" %"), percent(kept.high or kept.low)
        parts.append(f"kept {percent(kept.mean)} ({low} to {high}) of what sequential fine-tuning forgot")
    stored = stored_words(summary)
    parts += [_time(summary, base), "nothing stored" if stored in ("none", MISSING) else f"{stored} stored"]
    return f"{start}{'; '.join(parts)} ({design})."


def _time(summary: MethodSummary, base: MethodSummary) -> str:
    """`relative_time` as a percentage, where the method's averages or a test tell it from noise."""
    verdict, ratio = summary.versus_sequential["training_seconds"].verdict, relative_time(summary, base)
    averages = summary.averages.mean and summary.steps.mean == base.steps.mean
    if ratio is None or (verdict == NONE_SHOWN and not averages):
        return "no difference in training time shown"
    return f"{percent(abs(ratio - 1))} {'more' if ratio >= 1 else 'less'} training time"


def _counts(tested: Tested, comparison: Comparison) -> Iterator[str]:
    """How often each verdict holds, for each metric and control."""
    differences = [tested_differences(summary, comparison.primary) for _, summary in tested]
    for what in differences[0]:
        counts = Counter[str](tests[what].verdict for tests in differences)
        shown = [f"{counts[v]} {v}" for v in VERDICTS if counts[v] or v != NO_COMPARISON]
        heading = next((metric_heading(m, comparison.primary) for m in TESTED
                        if metric_title(m, comparison.primary) == what), what)  # fmt: skip
        yield (
            f"{heading} against sequential fine-tuning, {len(tested)} methods: {', '.join(shown)} "
            f"({design_of_all(comparison)})."
        )


def _controls(comparison: Comparison) -> Iterator[str]:
    """What became of data that is never trained on, under every method whose interval is known."""
    interval = f"{100 * comparison.confidence:g} % intervals, not corrected for the number of methods"
    for name in next(iter(comparison.methods.values())).controls:
        changes = {label: summary.controls[name].change for label, summary in ranked(comparison)}
        known = {
            label: change for label, change in changes.items() if change.low is not None and change.low != change.high
        }
        worse = [label for label, change in known.items() if change.high is not None and change.high < 0]
        better = [label for label, change in known.items() if change.low is not None and change.low > 0]
        parts = []
        for labels, verdict in ((worse, "worse"), (better, "better")):
            after = [f"{title(label)} ({signed_amount(known[label].mean or 0.0, comparison.unit)})" for label in labels]
            parts += [f"{verdict} after {listing(after, FEW)}"] if after else []
        rest = [title(label) for label in known if label not in worse and label not in better]
        parts += [f"no change shown after {listing(rest, FEW)}"] if rest else []
        if parts:
            design = design_of_all(comparison)
            yield f"{name} (never trained on), since the start: {'; '.join(parts)} ({interval}; {design})."


def _alike(comparison: Comparison) -> Iterator[str]:
    """Which pairs of methods cannot be told apart by their average accuracy."""
    verdicts = {
        pair: difference.verdict
        for pair, difference in pairwise_differences(comparison, "average_accuracy").items()
        if difference.n >= 2 and difference.verdict != NO_COMPARISON
    }
    if not verdicts:
        return
    alike = [f"{title(a)} and {title(b)}" for (a, b), verdict in verdicts.items() if verdict == NONE_SHOWN]
    names = f": {'; '.join(alike)}" if 0 < len(alike) <= NAMED else ""
    yield (
        f"Pairs of methods that cannot be told apart in {metric_title('average_accuracy', comparison.primary)}: "
        f"{len(alike)} of {len(verdicts)}{names} ({design_of_all(comparison)}, corrected for every pair)."
    )


def _own_settings(comparison: Comparison) -> list[str]:
    """Which methods were trained with other settings than the rest."""
    settings = {title(label): summary.method.get("train") for label, summary in comparison.methods.items()}
    listed = [
        f"{name} ({', '.join(f'{key} {value}' for key, value in train.items())})"
        for name, train in settings.items()
        if train
    ]
    return [f"Trained with settings of its own: {listing(listed, len(listed))}."] if listed else []


def _sequential(base: MethodSummary, comparison: Comparison) -> Iterator[str]:
    """What plain training forgot: without it no method can have kept a share."""
    forgetting, design = base.forgetting, run_design(base.cells)
    if forgetting.mean is None or forgetting.low is None or forgetting.high is None:
        return
    if forgetting.low <= 0:
        yield f"Sequential fine-tuning was not shown to forget ({design}), so no share that was kept is given."
        return
    mean, low, high = (amount(value, comparison.unit) for value in (forgetting.mean, forgetting.low, forgetting.high))
    interval = f"{100 * comparison.confidence:g} % interval {low.split()[0]} to {high}"
    yield f"Sequential fine-tuning itself: forgetting {mean} ({interval}, {design})."


def run_summary(results: Results) -> list[str]:
    """What one run came to, without a claim: a single run has no interval. Then which class lost most, if any did."""
    metrics, scores = results.metrics, results.scores[results.primary]
    learnt, planned = len(scores.matrix), len(results.recipe.get("tasks") or scores.matrix)
    if not learnt or metrics.average_accuracy is None:
        return ["No task has been learnt and measured yet."]

    def with_unit(value: float) -> str:
        return score(value, scores.unit) + ("" if scores.unit in ("fraction", results.primary) else f" {scores.unit}")

    last = results.tasks[learnt - 1]
    after = f"{learnt} of {planned} tasks" if planned > learnt else counted(learnt, "task")
    if learnt == 1:
        parts = [f"{results.primary.replace('_', ' ')} {with_unit(metrics.average_accuracy)} on {last}"]
    else:
        parts = [f"{metric_title('average_accuracy', results.primary)} {with_unit(metrics.average_accuracy)}"]
        if metrics.newest_accuracy is not None:
            newest = metric_title("newest_accuracy", results.primary)
            parts.append(f"{newest} ({last}) {with_unit(metrics.newest_accuracy)}")
        if metrics.forgetting is not None:
            parts.append(f"forgetting {signed_amount(metrics.forgetting, scores.unit)}")
    changes = (control_words(name, control, scores.unit) for name, control in control_metrics(scores).items())
    facts = "; ".join([", ".join(parts), *filter(None, changes)])
    lost = lost_sentence(results)
    return [f"{opening(results.label)} after {after}: {facts} (1 seed, so no interval).", *([lost] if lost else [])]
