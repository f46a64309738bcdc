"""What methods cost: training time relative to plain fine-tuning, memory, and what is kept between tasks."""

from __future__ import annotations

from collections.abc import Callable
from math import fsum

from stockpot.report.formatting import MISSING, bytes_text, seconds, with_interval
from stockpot.report.ranking import ranked
from stockpot.results import Comparison, Costs, FrontPoint, MethodSummary


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}".replace(",", " ")


COST_COLUMNS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "training_seconds": ("training", seconds),
    "averaging_seconds": ("of it averaging", seconds),
    "evaluation_seconds": ("evaluation", seconds),
    "training_cpu_seconds": ("training, processor", seconds),
    "averaging_cpu_seconds": ("of it averaging, processor", seconds),
    "evaluation_cpu_seconds": ("evaluation, processor", seconds),
    "peak_memory_bytes": ("peak memory", bytes_text),
    "extra_memory_bytes": ("extra memory", bytes_text),
    "stored_bytes": ("stored between tasks", bytes_text),
    "stored_data_bytes": ("of it data", bytes_text),
    "stored_model_bytes": ("of it models", bytes_text),
    "stored_statistics_bytes": ("of it statistics", bytes_text),
    "steps": ("steps", _count),
    "averages": ("averages", _count),
}
KINDS_KEPT = {"stored_data_bytes": "data", "stored_model_bytes": "models", "stored_statistics_bytes": "statistics"}


def cost_rows(costs: list[Costs]) -> list[tuple[str, list[str]]]:
    """A row for each cost, a column for each of `costs`; rows of zeros are left out."""
    rows = []
    for field, (name, write) in COST_COLUMNS.items():
        values = [getattr(cost, field) for cost in costs]
        if any(values):
            rows.append((name, [write(value) for value in values]))
    return rows


def method_costs(comparison: Comparison) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and a row for each method, best average first: mean costs ± half the interval.

    Costs that are zero for every method are left out.
    """
    rows = ranked(comparison)
    fields = [field for field in COST_COLUMNS if any(getattr(summary, field).mean for _, summary in rows)]
    written = [(label, [with_interval(getattr(s, f), COST_COLUMNS[f][1]) for f in fields]) for label, s in rows]
    return [COST_COLUMNS[field][0] for field in fields], written


def relative_time(summary: MethodSummary, base: MethodSummary | None) -> float | None:
    """Training time over that of plain fine-tuning; every number of a page that says it comes from here.

    Where a method averages and takes as many steps as plain training, the seconds inside the averages are measured
    directly, free of the noise between runs: the ratio is 1 + their share, unless the runs as wholes are shown to be
    faster, or slower by more than that. Otherwise it is the ratio of mean training seconds.
    """
    training, plain = summary.training_seconds.mean, base.training_seconds.mean if base else None
    if base is None or training is None or not plain:
        return None
    whole = summary.versus_sequential.get("training_seconds")
    share = averaging_share(summary)
    if share is not None and summary.averages.mean and summary.steps.mean == base.steps.mean:
        verdict = whole.verdict if whole is not None else "no difference shown"
        beyond = verdict == "worse" and whole is not None and whole.low is not None and whole.low / plain > share
        if verdict != "better" and not beyond:
            return 1 + share
    return training / plain


def averaging_share(summary: MethodSummary) -> float | None:
    """Averaging seconds over the training seconds without them, the mean over runs."""
    pairs = zip(summary.averaging_seconds.values, summary.training_seconds.values, strict=True)
    shares = [a / (t - a) for a, t in pairs if a is not None and t is not None and t > a]
    return fsum(shares) / len(shares) if shares else None


def stored_words(summary: MethodSummary | FrontPoint) -> str:
    """What a method keeps between tasks beside the newest model: `"none"`, `"2 MB data, 5 kB statistics"`.

    Bytes whose kind an older version did not record stand without a name.
    """
    parts = {kind: getattr(summary, field).mean or 0.0 for field, kind in KINDS_KEPT.items()}
    total = max(summary.stored_bytes.mean or 0.0, *parts.values())
    if not total:
        return bytes_text(summary.stored_bytes.mean)
    known = [f"{bytes_text(part)} {kind}" for kind, part in parts.items() if part]
    rest = total - sum(parts.values())
    return ", ".join([*known, *([bytes_text(rest)] if rest > 0.5 else [])])
