"""Results of the language comparisons: each order of the tasks on its own, paired over seeds, and the general text.

    python benchmarks/language_evidence.py runs/language runs/language-lora runs/language-sfa --json FILE

Reads the finished cells of `stockpot compare` folders and prints one table for each folder and order, as Markdown; with
--json the numbers behind them. "Past" is the mean loss on earlier tasks after the last one, "newest" that on the last
one, "general" that on the control, which no task trains on. Differences are paired over seeds, their intervals
corrected by Holm's rule over the methods of a table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from stockpot.evaluation.statistics import correct, estimate_mean, paired
from stockpot.report.search_ends import chosen_at_end, chosen_keys, end_sentences, fair_verdict
from stockpot.results import Comparison, Results, read_comparison, read_results


class Cell(NamedTuple):
    """One run: the loss after each task on each task, and on the control before and after each."""

    seed: int
    order: int
    results: Results

    @property
    def matrix(self) -> list[list[float]]:
        return [[float(value) for value in row if value is not None] for row in self.results.scores["loss"].matrix]

    @property
    def control(self) -> list[float]:
        (values,) = self.results.scores["loss"].controls.values()
        return [float(value) for value in values if value is not None]


SHOWN: dict[str, Callable[[Cell], float]] = {
    "average": lambda cell: fmean(cell.matrix[-1]),
    "past": lambda cell: fmean(cell.matrix[-1][:-1]),
    "newest": lambda cell: cell.matrix[-1][-1],
    "first task": lambda cell: cell.matrix[-1][0],
    "general": lambda cell: cell.control[-1],
}


def cells_of(folder: Path, comparison: Comparison) -> dict[str, list[Cell]]:
    """The runs of each method, in the same order for all."""
    return {
        label: [Cell(cell.seed, cell.order, read_results(folder / cell.run / "results.json")) for cell in summary.cells]
        for label, summary in comparison.methods.items()
    }


def mean_and_interval(values: list[float]) -> str:
    """Mean ± half of the 95 % interval."""
    estimate = estimate_mean(values)
    return f"{estimate.mean:.2f}" + (
        f" ± {estimate.high - estimate.mean:.2f}" if estimate.mean and estimate.high else ""
    )


def against(cells: dict[str, list[Cell]], reference: str, key: str, at_end: Mapping[str, object]) -> dict[str, str]:
    """Each method minus the reference, paired over seeds: mean, corrected interval, verdict if there is one."""
    measure = SHOWN[key]
    base = [measure(cell) for cell in cells[reference]]
    tests = {
        label: paired([measure(cell) for cell in runs], base) for label, runs in cells.items() if label != reference
    }
    words = {}
    for label, gap in correct(tests, lower_is_better=True).items():
        shown = fair_verdict(gap, label, reference, at_end)
        interval = "" if shown.low is None else f" ({shown.low:+.2f} to {shown.high:+.2f})"
        verdict = "" if shown.verdict == "no difference shown" else f", {shown.verdict}"
        words[label] = f"{shown.mean:+.2f}{interval}{verdict}"
    return words


def table(cells: dict[str, list[Cell]], comparison: Comparison) -> list[str]:
    """One order of the tasks: every method, best average first, and SFA against each."""
    first = next(iter(cells.values()))[0]
    start = f"before the stream the general text has {first.control[0]:.2f}, the first task {initial(first):.2f}"
    lines = [f"{' → '.join(first.results.tasks)} ({len(next(iter(cells.values())))} seeds; {start})", ""]
    gaps = {
        reference: against(cells, reference, "average", chosen_at_end(comparison))
        for reference in ("sequential", "sfa")
        if reference in cells
    }
    titles = [*SHOWN, *(f"average less {reference}'s" for reference in gaps)]
    lines += [f"| method | chosen | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    for label, runs in sorted(cells.items(), key=lambda item: fmean(map(SHOWN["average"], item[1]))):
        keys = chosen_keys(comparison, label)
        values = [mean_and_interval([measure(cell) for cell in runs]) for measure in SHOWN.values()]
        lines.append(f"| {' | '.join([label, keys, *values, *(gap.get(label, '') for gap in gaps.values())])} |")
    return [*lines, ""]


def initial(cell: Cell) -> float:
    """The loss on the first task before the stream."""
    value = cell.results.scores["loss"].initial[0]
    assert value is not None, "every task is evaluated before the stream"
    return value


def numbers(cells: dict[str, list[Cell]], comparison: Comparison) -> dict[str, Any]:
    """The numbers behind the tables, as JSON values: rounded to a ten-thousandth of a nat."""
    return {
        "orders": comparison.orders,
        "tuning": None if comparison.tuning is None else comparison.tuning.model_dump(mode="json"),
        "commit": comparison.commit,
        "versions": comparison.versions,
        "methods": {label: summary.method for label, summary in comparison.methods.items()},
        "cells": [
            {
                "method": label, "seed": cell.seed, "order": cell.order,
                "loss": [[round(value, 4) for value in row] for row in cell.matrix],
                "general": [round(value, 4) for value in cell.control],
                "training_cpu_seconds": round(cell.results.costs.training_cpu_seconds, 2),
                "extra_memory_bytes": cell.results.costs.extra_memory_bytes,
                "stored_bytes": cell.results.costs.stored_bytes,
                "stored_data_bytes": cell.results.costs.stored_data_bytes,
            }
            for label, runs in cells.items()
            for cell in runs
        ],
    }  # fmt: skip


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, help="of finished comparisons")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()
    numbers_of = {}
    for folder in arguments.folders:
        comparison = read_comparison(folder / "comparison.json")
        cells = cells_of(folder, comparison)
        numbers_of[folder.name] = numbers(cells, comparison)
        print(f"## {folder.name}\n")
        for order in range(len(comparison.orders)):
            of_order = {label: [cell for cell in runs if cell.order == order] for label, runs in cells.items()}
            print("\n".join(table(of_order, comparison)))
        print("\n".join(end_sentences(comparison)))
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers_of, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
