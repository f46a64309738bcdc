"""The rows of the tables as text, the same for the terminal and for the pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from stockpot.evaluation.metrics import control_metrics
from stockpot.methods import role_of
from stockpot.report.formatting import METRIC_TITLES, metric_title, score, signed
from stockpot.results import START_ROW, MethodSummary, Results

CONTROL_CHANGE = "how much better data that is never trained on scores than under the start model; negative: worse"
CONTROL_WORST = "the lowest of these changes over the stream"
Column = tuple[str, Callable[[str, MethodSummary], str]]  # its heading, and its cell for a label and summary


class Grid(NamedTuple):
    """A table of text: its caption, the headings of its columns, its named rows, and the heading above the names."""

    caption: str
    headings: list[str]
    rows: list[tuple[str, list[str]]]
    corner: str = "method"


def method_name(label: str, summary: MethodSummary) -> str:
    """The label, with "(floor)" or "(ceiling)" for the references."""
    role = role_of(summary.method)
    return label if role == "rival" else f"{label} ({role})"


def method_grid(caption: str, methods: Sequence[tuple[str, MethodSummary]], columns: Sequence[Column]) -> Grid:
    """A row for each method, in the order given."""
    rows = [(method_name(label, s), [cell(label, s) for _, cell in columns]) for label, s in methods]
    return Grid(caption, [heading for heading, _ in columns], rows)


def metric_rows(results: Results) -> list[tuple[str, str, str]]:
    """(title, value, explanation) of every metric of a run."""
    scores = results.scores[results.primary]
    rows = [
        (metric_title(key, results.primary), score(getattr(results.metrics, key), scores.unit), explanation)
        for key, (_, explanation) in METRIC_TITLES.items()
    ]
    for name, metrics in control_metrics(scores).items():
        rows.append((f"{name} since the start", signed(metrics.change, scores.unit), CONTROL_CHANGE))
        rows.append((f"{name} at its worst", signed(metrics.worst, scores.unit), CONTROL_WORST))
    return rows


def score_rows(results: Results, name: str) -> list[tuple[str, list[float | None]]]:
    """One score before the stream and after each task: on every task, then on every control."""
    scores = results.scores[name]
    stages = [START_ROW, *results.tasks[: len(scores.matrix)]]
    controls = list(scores.controls.values())
    return [
        (stage, [*row, *(values[i] for values in controls)])
        for i, (stage, row) in enumerate(zip(stages, [scores.initial, *scores.matrix], strict=True))
    ]
