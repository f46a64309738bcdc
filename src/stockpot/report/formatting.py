"""How numbers and names are written for people: scores, points, seconds, sizes, methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import floor, fsum, log10

from stockpot.methods import floor_among, role_of, title_of
from stockpot.printing import human_bytes
from stockpot.results import Cell, Comparison, ControlMetrics, Estimate, FrontPoint, MethodSummary

MISSING = "—"

# metric → (title, one line that explains it)
METRIC_TITLES = {
    "average_accuracy": ("average accuracy", "mean score on every task learnt, after the last one"),
    "average_over_time": ("average over time", "the same mean after every task, averaged over the stream"),
    "forgetting": ("forgetting", "how much worse earlier tasks are than at their best score; lower is better"),
    "backward_transfer": (
        "backward transfer",
        "what later tasks did to the score of earlier ones; below zero they were harmed",
    ),
    "forward_transfer": (
        "forward transfer",
        "what earlier tasks taught of one not yet learnt, against the untrained start",
    ),
    "plasticity": ("plasticity", "mean score on each task when it was just learnt"),
    "past_accuracy": ("accuracy on earlier tasks", "mean score on all tasks but the last, after the last one"),
    "newest_accuracy": ("accuracy on the newest task", "score on the last task, just learnt"),
}


def metric_title(metric: str, primary: str) -> str:
    """A metric's title, in the words of the score that it is made of: "average loss", "loss on the newest task"."""
    return (
        METRIC_TITLES[metric][0].replace("accuracy", primary.replace("_", " ")) if metric in METRIC_TITLES else metric
    )


def metric_heading(metric: str, primary: str) -> str:
    """`named` at the head of a sentence."""
    return capitalized(metric_title(metric, primary))


def title(label: str) -> str:
    """What a method is called in prose: its usual name where the label is the method's own name, else the label."""
    return title_of(label)


def opening(label: str) -> str:
    """`title` at the head of a sentence: our own names with a capital, the user's labels as they are."""
    name = title_of(label)
    return label if name == label else capitalized(name)


def capitalized(sentence: str) -> str:
    """The sentence with a capital first letter, the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def fit(name: str, width: int) -> str:
    """A name cut in the middle, for both ends tell names apart."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return name[:head] + "…" + name[len(name) - (width - 1 - head) :]


def score(value: float | None, unit: str = "fraction") -> str:
    """A score of a fraction to three decimals, of anything else to three digits, or to whole ones from 1,000 on."""
    if value is None:
        return MISSING
    text = f"{value:.3f}" if unit == "fraction" else f"{value:#.3g}" if 0.001 < abs(value) < 999.5 else f"{value:.3g}"
    text = text.removesuffix(".")
    if unit != "fraction" and 999.5 <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    return text.replace("-", "−")


def amount(value: float, unit: str = "fraction") -> str:
    """The size of a difference of scores, without its sign: points of a hundred for fractions, else the unit."""
    return f"{100 * abs(value):.1f} points" if unit == "fraction" else f"{score(abs(value), unit)} {unit}"


def is_nothing(value: float, unit: str = "fraction") -> bool:
    """Whether a difference of scores would be written as zero."""
    return round(100 * abs(value), 1) == 0 if unit == "fraction" else value == 0


def control_words(name: str, found: ControlMetrics, unit: str) -> str:
    """What became of a control: `"general, never trained on, is 0.31 nats worse than at the start"`."""
    if found.change is None:
        return ""
    if is_nothing(found.change, unit):
        text = f"{name}, never trained on, is as at the start"
    else:
        way = "better" if found.change > 0 else "worse"
        text = f"{name}, never trained on, is {amount(found.change, unit)} {way} than at the start"
    worst = found.worst
    if worst is None or worst >= 0 or is_nothing(found.change - worst, unit):
        return text
    return f"{text} (at its worst {amount(worst, unit)} worse)"


def changes_words(name: str, changes: Sequence[str]) -> str:
    """What became of a control in several places: `"general, …, changed since the start by −0.3 after SFA; …"`."""
    return f"{name}, never trained on, changed since the start by {listing(changes, 6)}; below zero is worse"


def signed(value: float | None, unit: str = "fraction") -> str:
    """A difference of scores with its sign."""
    if value is None:
        return MISSING
    return ("+" if value >= 0 else "−") + score(abs(value), unit)


def percent(share: float) -> str:
    """A share of one as a percentage: one decimal below ten."""
    value = 100 * share
    if 0 < value < 0.05:
        return "under 0.1 %"
    text = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
    return ("0" if text in {"0.0", "-0.0"} else text).replace("-", "−") + " %"


def seconds(value: float | None) -> str:
    """Seconds in the unit that keeps two or three digits."""
    if value is None:
        return MISSING
    if value == 0:
        return "0 s"
    if value < 0.0995:
        return f"{1000 * value:.2g} ms"
    if value < 99.95:
        return f"{value:#.3g} s" if value >= 1 else f"{value:.2g} s"
    return f"{value / 60:#.3g} min" if value < 5970 else f"{value / 3600:#.3g} h"


def bytes_text(value: float | None) -> str:
    """Bytes in decimal units, zero as "none"."""
    return MISSING if value is None else human_bytes(value) if value else "none"


def with_interval(estimate: Estimate, write: Callable[[float | None], str] = score) -> str:
    """`mean ± half the interval`; the mean alone where there is no interval, or one of no width."""
    if estimate.mean is None or estimate.high is None or estimate.high == estimate.low:
        return write(estimate.mean)
    return f"{write(estimate.mean)} ± {write(estimate.high - estimate.mean)}"


def score_with_interval(estimate: Estimate, unit: str = "fraction") -> str:
    """`spread` of a score: of what is no fraction, the interval has no more decimals than its three digits need.

    The digits count for the mean or the half interval, whichever is larger: `5.21 ± 0.09`, `0.009 ± 0.170`.
    """
    if unit == "fraction" or estimate.mean is None or estimate.high is None or estimate.high == estimate.low:
        return with_interval(estimate, lambda value: score(value, unit))
    half = estimate.high - estimate.mean
    largest = max(abs(estimate.mean), half)
    if not 0.001 < largest < 999.5:
        return with_interval(estimate, lambda value: score(value, unit))
    decimals = max(0, 2 - floor(log10(float(f"{largest:.3g}"))))
    mean = f"{abs(estimate.mean):.{decimals}f}"
    return f"{'−' if estimate.mean < 0 and float(mean) else ''}{mean} ± {half:.{decimals}f}"


def seed_count(n: int) -> str:
    """`"1 seed"`, `"3 seeds"`."""
    return f"{n} seed" + ("" if n == 1 else "s")


def run_design(cells: Iterable[Cell]) -> str:
    """What the numbers of these runs are over: `"3 seeds × 2 orders"`, `"2 to 3 seeds × 2 orders"`."""
    by_order: dict[int, set[int]] = {}
    for cell in cells:
        by_order.setdefault(cell.order, set()).add(cell.seed)
    counts = {len(found) for found in by_order.values()} or {0}
    return _design(counts, {len(by_order)})


def design_of_all(comparison: Comparison) -> str:
    """The same for a whole comparison: ranges where its methods differ."""
    return design_of_groups(summary.cells for summary in comparison.methods.values())


def design_of_groups(groups: Iterable[Sequence[Cell]]) -> str:
    """The same for several groups of runs: ranges where these differ."""
    counts, orders = set(), set()
    for cells in groups:
        found = [cell.order for cell in cells]
        orders.add(len(set(found)))
        counts |= {found.count(order) for order in found}
    return _design(counts or {0}, orders or {0})


def over_runs(comparison: Comparison) -> str:
    """`"means ± half the 95 % interval over 3 seeds × 1 order"`; single runs have no interval, and are not said to."""
    written = design_of_all(comparison)
    if not any(s.average_accuracy.low is not None for s in comparison.methods.values()):
        return f"single runs, so no intervals ({written})"
    return f"means ± half the {100 * comparison.confidence:g} % interval over {written}"


def _design(counts: set[int], orders: set[int]) -> str:
    least = f"{min(counts)} to " if len(counts) > 1 else ""
    fewest = f"{min(orders)} to " if len(orders) > 1 else ""
    return f"{least}{seed_count(max(counts))} × {fewest}{max(orders)} order" + ("" if max(orders) == 1 else "s")


def listing(names: Sequence[str], most: int = 3) -> str:
    """`"a"`, `"a and b"`, `"a, b, c and 4 more"`."""
    if len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"


def times(ratio: float | None) -> str:
    """A ratio: `"1.10 ×"`, from ten on `"12 ×"`."""
    if ratio is None:
        return MISSING
    return f"{ratio:.2f} ×" if ratio < 9.995 else f"{ratio:.0f} ×"


def relative_time(summary: MethodSummary, base: MethodSummary | None) -> float | None:
    """Training time over that of plain fine-tuning; every place of a page that says it has it from here.

    Where a method averages and takes the steps of plain training, the seconds inside the averages are measured
    directly, free of the noise between runs: 1 + their share, unless the runs as wholes are shown to be faster, or
    slower by more than that. Otherwise the ratio of mean training seconds.
    """
    own, plain = summary.training_seconds.mean, base.training_seconds.mean if base else None
    if base is None or own is None or not plain:
        return None
    whole = summary.versus_sequential.get("training_seconds")
    share = averaging_share(summary)
    if share is not None and summary.averages.mean and summary.steps.mean == base.steps.mean:
        verdict = whole.verdict if whole is not None else "no difference shown"
        beyond = verdict == "worse" and whole is not None and whole.low is not None and whole.low / plain > share
        if verdict != "better" and not beyond:
            return 1 + share
    return own / plain


def averaging_share(summary: MethodSummary) -> float | None:
    """Mean over runs of averaging seconds over the training seconds without them."""
    pairs = zip(summary.averaging_seconds.values, summary.training_seconds.values, strict=True)
    shares = [a / (t - a) for a, t in pairs if a is not None and t is not None and t > a]
    return fsum(shares) / len(shares) if shares else None


KEPT = {"stored_data_bytes": "data", "stored_model_bytes": "models", "stored_statistics_bytes": "statistics"}


def kept_kinds(summary: MethodSummary | FrontPoint) -> list[str]:
    """What a method keeps between tasks, without the bytes: `["data", "statistics"]`."""
    return [kind for field, kind in KEPT.items() if getattr(summary, field).mean]


def kept_words(summary: MethodSummary) -> str:
    """What a method keeps between tasks beside the newest model: `"none"`, `"13.7 MB models"`, `"2 MB data, 5 kB …"`.

    Bytes of which an older version did not say what they are stand without a name.
    """
    parts = {kind: getattr(summary, field).mean or 0.0 for field, kind in KEPT.items()}
    total = max(summary.stored_bytes.mean or 0.0, *parts.values())
    if not total:
        return bytes_text(summary.stored_bytes.mean)
    named = [f"{bytes_text(part)} {kind}" for kind, part in parts.items() if part]
    rest = total - sum(parts.values())
    return ", ".join([*named, *([bytes_text(rest)] if rest > 0.5 else [])])


def reference(comparison: Comparison) -> str | None:
    """The label of plain sequential fine-tuning, with which the others are compared."""
    return floor_among({label: summary.method for label, summary in comparison.methods.items()})


def ranked(comparison: Comparison) -> list[tuple[str, MethodSummary]]:
    """The methods by their mean average accuracy, best first, those without one last."""
    return ranked_by(comparison, "average_accuracy", lower=not comparison.higher_is_better)


def leading(comparison: Comparison, most: int) -> list[str]:
    """The labels of the best `most` methods by mean average accuracy, floor and ceiling beside them, best first."""
    order = [(label, role_of(summary.method) != "rival") for label, summary in ranked(comparison)]
    best = [label for label, is_reference in order if not is_reference][:most]
    return [label for label, is_reference in order if is_reference or label in best]


def ranked_by(comparison: Comparison, metric: str, lower: bool) -> list[tuple[str, MethodSummary]]:
    """The methods by their mean in one metric, best first, those without one last."""

    def key(item: tuple[str, MethodSummary]) -> tuple[bool, float]:
        mean = getattr(item[1], metric).mean
        if mean is None:
            return (True, 0.0)
        return (False, mean if lower else -mean)

    return sorted(comparison.methods.items(), key=key)
