"""Numbers and names as text: scores, points, seconds, bytes, methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import floor, log10

from stockpot.methods import title_of
from stockpot.printing import human_bytes
from stockpot.results import ControlMetrics, Estimate

MISSING = "—"

METRIC_TITLES = {
    "average_accuracy": ("average accuracy", "mean score over all tasks learnt, after the last one"),
    "average_over_time": ("average over time", "the same mean after each task, averaged over the stream"),
    "forgetting": ("forgetting", "how far earlier tasks are below their best score; lower is better"),
    "backward_transfer": (
        "backward transfer",
        "how later tasks changed the scores of earlier ones; negative: they got worse",
    ),
    "forward_transfer": (
        "forward transfer",
        "score on a task before it is learnt, relative to the start model",
    ),
    "plasticity": ("plasticity", "mean score on each task just after it was learnt"),
    "past_accuracy": ("accuracy on earlier tasks", "mean score on all tasks but the last, after the last one"),
    "newest_accuracy": ("accuracy on the newest task", "score on the last task, just after it was learnt"),
}


def metric_title(metric: str, primary: str) -> str:
    """A metric's title in terms of its score: "average loss", "loss on the newest task"."""
    if metric not in METRIC_TITLES:
        return metric
    return METRIC_TITLES[metric][0].replace("accuracy", primary.replace("_", " "))


def metric_heading(metric: str, primary: str) -> str:
    """`metric_title` with a capital."""
    return capitalized(metric_title(metric, primary))


def title(label: str) -> str:
    """A method's name in prose if the label is the method's own name, else the label."""
    return title_of(label)


def opening(label: str) -> str:
    """`title` at the head of a sentence; a user's label is left as it is."""
    name = title_of(label)
    return label if name == label else capitalized(name)


def capitalized(text: str) -> str:
    """The text with a capital first letter, the rest unchanged."""
    return text[:1].upper() + text[1:]


def fit(name: str, width: int) -> str:
    """The name, cut in the middle if longer than `width`: both ends tell names apart."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return name[:head] + "…" + name[len(name) - (width - 1 - head) :]


def score(value: float | None, unit: str = "fraction") -> str:
    """A score: fractions to three decimals; anything else to three digits, or to a whole number from 1,000 on."""
    if value is None:
        return MISSING
    text = f"{value:.3f}" if unit == "fraction" else f"{value:#.3g}" if 0.001 < abs(value) < 999.5 else f"{value:.3g}"
    text = text.removesuffix(".")
    if unit != "fraction" and 999.5 <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    return text.replace("-", "−")


def amount(value: float, unit: str = "fraction") -> str:
    """The size of a difference of scores, without its sign: in points (hundredths) for fractions, else in the unit."""
    return f"{100 * abs(value):.1f} points" if unit == "fraction" else f"{score(abs(value), unit)} {unit}"


def is_zero(value: float, unit: str = "fraction") -> bool:
    """Whether a difference of scores would be written as zero."""
    return round(100 * abs(value), 1) == 0 if unit == "fraction" else value == 0


def signed_amount(value: float, unit: str = "fraction") -> str:
    """A difference of scores with its sign and unit: `"+3.1 points"`, `"−0.310 nats"`, `"0.0 points"`."""
    return ("" if is_zero(value, unit) else "+" if value > 0 else "−") + amount(value, unit)


def signed(value: float | None, unit: str = "fraction") -> str:
    """A difference of scores with its sign, for columns: `"+0.031"`."""
    if value is None:
        return MISSING
    return ("+" if value >= 0 else "−") + score(abs(value), unit)


def control_words(name: str, metrics: ControlMetrics, unit: str) -> str:
    """`"general (never trained on) −0.310 nats since the start"`, with its worst where that is lower; "" if unknown."""
    if metrics.change is None:
        return ""
    text = f"{name} (never trained on) {signed_amount(metrics.change, unit)} since the start"
    worst = metrics.worst
    if worst is None or worst >= 0 or is_zero(metrics.change - worst, unit):
        return text
    return f"{text} (at its worst {signed_amount(worst, unit)})"


def percent(share: float) -> str:
    """A fraction of one as a percentage, with one decimal below ten."""
    value = 100 * share
    if 0 < value < 0.05:
        return "under 0.1 %"
    text = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
    return ("0" if text in {"0.0", "-0.0"} else text).replace("-", "−") + " %"


def seconds(value: float | None) -> str:
    """Seconds in the unit that leaves two or three digits."""
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
    """`mean ± half the interval`; the mean alone if there is no interval, or one of width zero."""
    if estimate.mean is None or estimate.high is None or estimate.high == estimate.low:
        return write(estimate.mean)
    return f"{write(estimate.mean)} ± {write(estimate.high - estimate.mean)}"


def score_with_interval(estimate: Estimate, unit: str = "fraction") -> str:
    """`with_interval` of a score. Except for fractions, mean and half interval have the same number of decimals.

    The larger of the two gets three digits: `5.21 ± 0.09`, `0.009 ± 0.170`.
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


def plain_number(value: object) -> str:
    """A parameter's value as people write it, 1e8 or 0.05; values that are not numbers as they are."""
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.4g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def listing(names: Sequence[str], most: int = 3) -> str:
    """`"a"`, `"a and b"`, `"a, b, c and 4 more"`; "none" for no names."""
    if len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"


def times(ratio: float | None) -> str:
    """A ratio: `"1.10 ×"`, from ten on `"12 ×"`."""
    if ratio is None:
        return MISSING
    return f"{ratio:.2f} ×" if ratio < 9.995 else f"{ratio:.0f} ×"


_SIZES = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0} | {
    f"{k}B": 1000.0**n for n, k in enumerate(("", "k", "M", "G", "T"))
}
_NUMBER = re.compile(r"([+−-]?[\d,]*\.?\d+(?:e[+−-]?\d+)?)(?: (ms|s|min|h|[kMGT]?B)\b)?")


def sort_value(text: str) -> float | None:
    """What a cell that begins with a number is sorted by, seconds and bytes in one unit; None for other text."""
    if text == "none":
        return 0.0
    match = _NUMBER.match(text.removeprefix("under "))
    if match is None:
        return None
    number = match[1].replace("−", "-").replace(",", "")
    return float(number) * _SIZES.get(match[2] or "", 1.0)
