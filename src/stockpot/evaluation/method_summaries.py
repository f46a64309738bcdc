"""Every method of a comparison summarised over its runs, and compared with plain sequential fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stockpot.errors import StockpotError
from stockpot.evaluation.metrics import control_metrics
from stockpot.evaluation.statistics import (
    COST_NAMES,
    METRIC_NAMES,
    RunKey,
    correct,
    estimate_runs,
    kept_estimate,
    lower_is_better,
    paired_runs,
)
from stockpot.methods import floor_among
from stockpot.results import Cell, ControlMetrics, ControlSummary, Difference, MethodSummary, Results

# They belong to how a method works: fewer is neither better nor worse.
NEUTRAL = ("steps", "examples", "tokens", "averages")
# Counted, not sampled: a difference that is the same at every seed is a fact, and needs no test.
COUNTED = frozenset({name for name in COST_NAMES if name.endswith("_bytes")} - {"peak_memory_bytes"} | {*NEUTRAL})
CONTROLS = tuple(ControlMetrics.model_fields)
COMPARED = METRIC_NAMES + tuple(name for name in COST_NAMES if name not in NEUTRAL)


class FinishedRun(NamedTuple):
    """A finished run of a comparison; `order` is an index into its orders of the tasks."""

    seed: int
    path: str
    results: Results
    order: int = 0
    digest: str | None = None  # of its journal


def _values_by_run(runs: Sequence[FinishedRun], metric: str) -> dict[RunKey, float | None]:
    return {
        (run.order, run.seed): getattr(run.results.metrics if metric in METRIC_NAMES else run.results.costs, metric)
        for run in runs
    }


def compare_methods(
    runs_by_label: Mapping[str, Sequence[FinishedRun | tuple[int, str, Results]]],
    confidence: float = 0.95,
) -> dict[str, MethodSummary]:
    """Every method's estimates over its seeds or orders, and its paired, corrected differences to the reference.

    The reference is the floor among the methods, plain sequential fine-tuning; without one nothing is compared.
    Methods are paired with it on the seeds and orders that both have. Raises StockpotError for a label without runs, a
    seed that appears twice in one order under one label, or runs of different scores.
    """
    cells = {label: [FinishedRun(*run) for run in runs] for label, runs in runs_by_label.items()}
    for label, runs in cells.items():
        seeds = [(run.order, run.seed) for run in runs]
        if not runs:
            raise StockpotError(f"Method '{label}' has no finished run.")
        if len(set(seeds)) != len(seeds):
            raise StockpotError(f"Method '{label}' has a seed that appears twice among {[seed for _, seed in seeds]}.")
    kinds = {
        (run.results.primary, run.results.scores[run.results.primary].higher_is_better)
        for runs in cells.values()
        for run in runs
    }
    if len(kinds) > 1:
        raise StockpotError("Runs of different scores cannot be compared: " + ", ".join(sorted(str(k) for k in kinds)))
    higher_scores = all(higher for _, higher in kinds)

    base = floor_among({label: runs[0].results.method for label, runs in cells.items()})
    versus: dict[str, dict[str, Difference]] = {label: {} for label in cells}
    if base is not None:
        others = [label for label in cells if label != base]
        for metric in COMPARED:
            sequential = _values_by_run(cells[base], metric)
            tests = {label: paired_runs(_values_by_run(cells[label], metric), sequential) for label in others}
            direction = lower_is_better(metric, higher_scores)
            for label, difference in correct(tests, direction, confidence, counted=metric in COUNTED).items():
                versus[label][metric] = difference

    controls = _controls(cells, base, confidence)
    lost = _values_by_run(cells[base], "forgetting") if base is not None else {}
    summaries = {}
    for label, runs in cells.items():
        estimates = {
            metric: estimate_runs(_values_by_run(runs, metric), confidence) for metric in METRIC_NAMES + COST_NAMES
        }
        estimates["kept"] = kept_estimate(_values_by_run(runs, "forgetting"), lost, confidence)
        summaries[label] = MethodSummary(
            method=runs[0].results.method,
            cells=[Cell(seed=run.seed, order=run.order, run=run.path, digest=run.digest) for run in runs],
            versus_sequential=versus[label],
            controls=controls[label],
            **estimates,
        )
    return summaries


def _controls(
    cells: Mapping[str, Sequence[FinishedRun]], base: str | None, confidence: float
) -> dict[str, dict[str, ControlSummary]]:
    """Label → control that all runs have → its estimates and corrected differences to the reference."""
    measured = {
        label: {(run.order, run.seed): control_metrics(run.results.scores[run.results.primary]) for run in runs}
        for label, runs in cells.items()
    }
    every = [controls for by_run in measured.values() for controls in by_run.values()]
    summaries: dict[str, dict[str, ControlSummary]] = {label: {} for label in cells}
    for name in (name for name in every[0] if all(name in controls for controls in every)):
        values = {
            metric: {
                label: {key: getattr(controls[name], metric) for key, controls in by_run.items()}
                for label, by_run in measured.items()
            }
            for metric in CONTROLS
        }
        versus: dict[str, dict[str, Difference]] = {label: {} for label in cells}
        for metric in CONTROLS if base is not None else ():
            reference = values[metric][str(base)]
            tests = {
                label: paired_runs(of_label, reference) for label, of_label in values[metric].items() if label != base
            }
            for label, difference in correct(tests, lower_is_better=False, confidence=confidence).items():
                versus[label][metric] = difference
        for label in cells:
            estimates = {metric: estimate_runs(values[metric][label], confidence) for metric in CONTROLS}
            summaries[label][name] = ControlSummary(versus_sequential=versus[label], **estimates)
    return summaries
