"""Numbers as rows for other programs: of a run one for each task after each task, of a comparison one for a method."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from stockpot.evaluation.class_metrics import class_accuracy
from stockpot.evaluation.statistics import COST_NAMES, METRIC_NAMES
from stockpot.methods import role_of
from stockpot.results import START_ROW, Comparison, Difference, Estimate, Results

Record = dict[str, str | float | int | None]


def records_of_run(name: str, results: Results) -> list[Record]:
    """Every score on every task and control, before the stream (`start`) and after each task.

    Of a classifier also the `class_accuracy` on each class: records of the kind `class`, which alone have a `class`.
    """
    records: list[Record] = []
    for title, scores in results.scores.items():
        facts: Record = {"run": name, "method": results.label, "seed": results.seed, "score": title,
                         "unit": scores.unit, "higher_is_better": str(scores.higher_is_better).lower()}  # fmt: skip
        tasks = results.tasks[: len(scores.matrix)]
        for row, after in enumerate([START_ROW, *tasks]):
            values = scores.initial if row == 0 else scores.matrix[row - 1]
            place: Record = {**facts, "learnt": row, "after": after}
            records += [{**place, "kind": "task", "on": on, "value": v} for on, v in zip(tasks, values, strict=True)]
            records += [
                {**place, "kind": "control", "on": on, "value": control[row]} for on, control in scores.controls.items()
            ]
    return [*records, *_records_of_classes(name, results)]


def _records_of_classes(name: str, results: Results) -> list[Record]:
    facts: Record = {"run": name, "method": results.label, "seed": results.seed, "score": "class_accuracy",
                     "unit": "fraction", "higher_is_better": "true"}  # fmt: skip
    records: list[Record] = []
    for part, counted in results.classes.items():
        for learnt, after in enumerate([START_ROW, *results.tasks][: len(counted.correct)]):
            place: Record = {**facts, "learnt": learnt, "after": after, "kind": "class", "on": part}
            values = zip(counted.classes, class_accuracy(counted, learnt), strict=True)
            records += [{**place, "value": value, "class": label} for label, value in values]
    return records


def records_of_comparison(comparison: Comparison) -> list[Record]:
    """Every metric, cost and control of each method, with its interval, and the differences to plain fine-tuning."""
    records = []
    for label, summary in comparison.methods.items():
        record: Record = {"method": label, "role": role_of(summary.method), "runs": len(summary.cells),
                          "score": comparison.primary, "unit": comparison.unit}  # fmt: skip
        for name in (*METRIC_NAMES, "kept", *COST_NAMES):
            record |= _estimate(name, getattr(summary, name))
        record |= _differences("", summary.versus_sequential)
        for control, by_control in summary.controls.items():
            record |= _estimate(f"{control}_change", by_control.change) | _estimate(
                f"{control}_worst", by_control.worst
            )
            record |= _differences(f"{control}_", by_control.versus_sequential)
        records.append(record)
    return records


def _estimate(name: str, estimate: Estimate) -> Record:
    return {f"{name}_{end}": getattr(estimate, end) for end in ("mean", "low", "high", "n")}


def _differences(prefix: str, differences: Mapping[str, Difference]) -> Record:
    ends = ("mean", "low", "high", "p_holm", "verdict")
    return {
        f"{prefix}{name}_difference_{end}": getattr(difference, end)
        for name, difference in differences.items()
        for end in ends
    }


def as_csv(records: Sequence[Record]) -> str:
    """The records as CSV with all keys as columns; a number that was not measured is empty, floats are exact."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
