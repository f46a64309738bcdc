"""The results of a comparison as Markdown: every method, and SFA minus each of the others.

    python benchmarks/evidence_table.py runs/grey-domains/comparison.json

Means with half the 95 % interval, over orders of the tasks if there are several, otherwise over seeds. SFA's
differences are paired and corrected by Holm's rule over all other methods.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

from stockpot.evaluation.statistics import RunKey, correct, estimate_runs, paired_runs
from stockpot.report.search_ends import chosen_at_end, chosen_keys, end_sentences, fair_verdict
from stockpot.results import Comparison, MethodSummary, read_comparison


def by_order_and_seed(summary: MethodSummary, metric: str = "average_accuracy") -> dict[RunKey, float | None]:
    """A metric of each run, by its order of the tasks and its seed."""
    values = getattr(summary, metric).values
    return {(cell.order, cell.seed): value for cell, value in zip(summary.cells, values, strict=True)}


def mean_and_interval(summary: MethodSummary, metric: str) -> str:
    """Mean ± half of the interval."""
    estimate = estimate_runs(by_order_and_seed(summary, metric))
    if estimate.mean is None:
        return "—"
    return f"{estimate.mean:.3f}" + ("" if estimate.high is None else f" ± {estimate.high - estimate.mean:.3f}")


def order_means(summary: MethodSummary, count: int) -> str:
    """The mean of each order of the tasks."""
    values = by_order_and_seed(summary)
    means = [fmean(v for (order, _), v in values.items() if order == k and v is not None) for k in range(count)]
    return ", ".join(f"{mean:.3f}" for mean in means)


def table(comparison: Comparison) -> list[str]:
    """Every method, best average first."""
    count = len(comparison.orders)
    heads = ["method", "chosen", "average accuracy", "forgetting", "earlier tasks", "newest task"]
    heads += ["by order"] * (count > 1) + ["against plain fine-tuning"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label, summary in sorted(comparison.methods.items(), key=lambda item: -(item[1].average_accuracy.mean or 0)):
        metrics = ("average_accuracy", "forgetting", "past_accuracy", "newest_accuracy")
        cells = [label, chosen_keys(comparison, label), *(mean_and_interval(summary, metric) for metric in metrics)]
        cells += [order_means(summary, count)] * (count > 1)
        cells.append(summary.versus_sequential["average_accuracy"].verdict if summary.versus_sequential else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def gaps(comparison: Comparison, label: str = "sfa") -> list[str]:
    """One method minus each of the others, in average accuracy."""
    values = by_order_and_seed(comparison.methods[label])
    tests = {
        other: paired_runs(values, by_order_and_seed(summary))
        for other, summary in comparison.methods.items()
        if other != label
    }
    lines = [f"| {label} − | difference | corrected interval | | p, not corrected |", "|---|---|---|---|---|"]
    for other, difference in correct(tests, lower_is_better=not comparison.higher_is_better).items():
        gap = fair_verdict(difference, label, other, chosen_at_end(comparison))
        interval = "—" if gap.low is None else f"{gap.low:+.3f} to {gap.high:+.3f}"
        alone = "—" if gap.p_value is None else f"{gap.p_value:.3f}"
        lines.append(f"| {other} | {gap.mean:+.3f} | {interval} | {gap.verdict} | {alone} |")
    return lines


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="a comparison.json")
    comparison = read_comparison(parser.parse_args().file)
    seeds = len(comparison.seeds)
    for number, order in enumerate(comparison.orders, 1):
        print(f"Order {number}: {' → '.join(order)}.", end=" ")
    print(f"{seeds} seeds.\n")
    print("\n".join([*table(comparison), "", *gaps(comparison), "", *end_sentences(comparison)]))


if __name__ == "__main__":
    main()
