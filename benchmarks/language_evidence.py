"""What the language comparisons found: each order of the tasks for itself, paired over seeds, and the general text.

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
        label: [Cell(cell.seed, cell.order, read_results(folder / cell.run / "results.json")) for cell in one.cells]
        for label, one in comparison.methods.items()
    }


def told(values: list[float]) -> str:
    """Mean ± half of the 95 % interval."""
    found = estimate_mean(values)
    return f"{found.mean:.2f}" + (f" ± {found.high - found.mean:.2f}" if found.mean and found.high else "")


def against(cells: dict[str, list[Cell]], reference: str, key: str, at_end: Mapping[str, object]) -> dict[str, str]:
    """Each method less the reference, paired over seeds: mean, corrected interval, verdict where there is one."""
    measure = SHOWN[key]
    base = [measure(cell) for cell in cells[reference]]
    tests = {label: paired([measure(cell) for cell in own], base) for label, own in cells.items() if label != reference}
    words = {}
    for label, gap in correct(tests, lower_is_better=True).items():
        found = fair_verdict(gap, label, reference, at_end)
        interval = "" if found.low is None else f" ({found.low:+.2f} to {found.high:+.2f})"
        verdict = "" if found.verdict == "no difference shown" else f", {found.verdict}"
        words[label] = f"{found.mean:+.2f}{interval}{verdict}"
    return words


def table(cells: dict[str, list[Cell]], comparison: Comparison) -> list[str]:
    """One order of the tasks: every method, the best average first, and SFA against each."""
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
    for label, own in sorted(cells.items(), key=lambda item: fmean(map(SHOWN["average"], item[1]))):
        keys = chosen_keys(comparison, label)
        values = [told([measure(cell) for cell in own]) for measure in SHOWN.values()]
        lines.append(f"| {' | '.join([label, keys, *values, *(gap.get(label, '') for gap in gaps.values())])} |")
    return [*lines, ""]


def initial(cell: Cell) -> float:
    """The loss on the first task before the stream."""
    value = cell.results.scores["loss"].initial[0]
    assert value is not None, "every task is evaluated before the stream"
    return value


def numbers(cells: dict[str, list[Cell]], comparison: Comparison) -> dict[str, Any]:
    """What the tables are made of, as JSON values: rounded to a ten-thousandth of a nat."""
    return {
        "orders": comparison.orders,
        "tuning": None if comparison.tuning is None else comparison.tuning.model_dump(mode="json"),
        "commit": comparison.commit,
        "versions": comparison.versions,
        "methods": {label: one.method for label, one in comparison.methods.items()},
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
            for label, own in cells.items()
            for cell in own
        ],
    }  # fmt: skip


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, help="of finished comparisons")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    asked = parser.parse_args()
    found = {}
    for folder in asked.folders:
        comparison = read_comparison(folder / "comparison.json")
        cells = cells_of(folder, comparison)
        found[folder.name] = numbers(cells, comparison)
        print(f"## {folder.name}\n")
        for order in range(len(comparison.orders)):
            of_order = {label: [cell for cell in own if cell.order == order] for label, own in cells.items()}
            print("\n".join(table(of_order, comparison)))
        print("\n".join(end_sentences(comparison)))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
