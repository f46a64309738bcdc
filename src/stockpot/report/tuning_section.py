"""How the parameters were chosen: the same number of trials for every method that has any."""

from __future__ import annotations

from math import log10
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stockpot.evaluation.statistics import lower_is_better
from stockpot.report.figures import FIGURE_WIDTH, FLOOR, looks, short, styled
from stockpot.report.formatting import MISSING, listing, metric_title, ranked, score, seed_count, title
from stockpot.report.search_ends import chosen_at_end, plain_number, searched_strength
from stockpot.results import Comparison, Trial, Tuning


class TunedRow(NamedTuple):
    """One method's choice, in words."""

    label: str
    chosen: str
    score: str
    trials: str


def tuned(comparison: Comparison) -> list[str]:
    """The labels with trials, by rank in the reported runs; then those that the comparison does not have."""
    tuning = comparison.tuning
    assert tuning is not None
    order = [label for label, _ in ranked(comparison)] + list(tuning.methods)
    return [label for label in dict.fromkeys(order) if tuning.methods.get(label)]


def tuning_sentences(comparison: Comparison) -> list[str]:
    """How the search was made, what had nothing to tune, and whose choice lies at the end of what was tried."""
    tuning = comparison.tuning
    assert tuning is not None
    searches = {"grid": "a grid", "random": "random search", "optuna": "Optuna"}
    objective = metric_title(tuning.objective, comparison.primary)
    whole = "trial" if tuning.trials == 1 else "trials"
    fewer = "at most " if any(0 < len(trials) < tuning.trials for trials in tuning.methods.values()) else ""
    found = [
        f"Before the reported runs, parameters were chosen by {searches[tuning.search]}: {fewer}{tuning.trials} "
        f"{whole} for each method, {seed_count(len(tuning.seeds))} ({', '.join(map(str, tuning.seeds))}), "
        f"by {objective} on {tuning.split}."
    ]
    nothing = [title(label) for label in comparison.methods if not tuning.methods.get(label)]
    if nothing:
        found.append(f"Nothing to tune, for want of parameters: {listing(nothing, 6)}.")
    if tuning.extensions:
        found.append(
            f"Since a best value was the outermost tried, {_rounds(tuning)}: up to {tuning.further_trials} further "
            "trials for each method, beyond the end for those at one, around the best value for the others."
        )
    edge = [title(label) for label in tuned(comparison) if label in chosen_at_end(comparison)]
    if edge:
        found.append(f"Chosen at the end of what was tried, so that a better value may lie beyond: {listing(edge, 6)}.")
    if tuning.at_limit:
        at_limit = [
            f"{title(label)} ({', '.join(f'{key} {plain_number(value)}' for key, value in keys.items())})"
            for label, keys in tuning.at_limit.items()
        ]
        found.append(f"Chosen at a mathematical limit, beyond which there is nothing: {listing(at_limit, 6)}.")
    lost = {title(label): sum(t.score is None for t in tuning.methods[label]) for label in tuned(comparison)}
    if any(lost.values()):
        which = [f"{name} ({count})" for name, count in lost.items() if count]
        found.append(f"Trials without a score, for training diverged: {listing(which, 6)}.")
    return found


def tuning_rows(comparison: Comparison) -> list[TunedRow]:
    """Label, chosen values, the best trial's score, how many trials."""
    tuning = comparison.tuning
    assert tuning is not None
    found = []
    for label in tuned(comparison):
        trials = tuning.methods[label]
        best = _best(trials, lower_is_better(tuning.objective, comparison.higher_is_better))
        keys = {key for trial in trials for key in trial.keys}
        chosen = {key: value for key, value in tuning.chosen.get(label, {}).items() if key in keys or not keys}
        found.append(TunedRow(label, _values(chosen), score(best, comparison.unit), str(len(trials))))
    return found


def _best(trials: list[Trial], lower: bool) -> float | None:
    scores = [trial.score for trial in trials if trial.score is not None]
    return (min if lower else max)(scores, default=None)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {number(value)}" for key, value in values.items()) or MISSING


def number(value: Any) -> str:
    """A parameter as short as it can be told."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rounds(tuning: Tuning) -> str:
    return "the search went on" if tuning.extensions == 1 else f"the search went on {tuning.extensions} times"


def _is_chosen(trial: Trial, tuning: Tuning, label: str) -> bool:
    chosen = tuning.chosen.get(label)
    return (
        chosen is not None
        and bool(chosen)
        and all(chosen.get(key, value) == value for key, value in trial.keys.items())
    )


@styled
def tuning_figure(comparison: Comparison) -> Figure:
    """Small multiples, one a method: each trial's score over its strength, or its number; the chosen one large."""
    tuning = comparison.tuning
    assert tuning is not None
    labels, given = tuned(comparison), looks(comparison)
    columns = min(4, len(labels))
    lines = -(-len(labels) // columns)
    drawing = Figure(figsize=(max(FIGURE_WIDTH, 2.3 * columns), 0.5 + 1.5 * lines), layout="constrained")
    grid = drawing.subplots(lines, columns, sharey=True, squeeze=False).ravel().tolist()
    for unused in grid[len(labels) :]:
        unused.set_visible(False)
    for axes, label in zip(grid, labels, strict=False):
        trials = tuning.methods[label]
        key = searched_strength(trials)
        color = given[label].color if label in given else FLOOR
        points = [
            (float(trial.keys[key]) if key else index + 1.0, trial.score, _is_chosen(trial, tuning, label))
            for index, trial in enumerate(trials)
        ]
        scored = sorted((x, y) for x, y, _ in points if y is not None)
        xs = [x for x, _, _ in points]
        axes.plot([x for x, _ in scored], [y for _, y in scored], ".-" if key else ".", color=color, linewidth=1)
        for x, y, chosen in points:
            if chosen and y is not None:
                axes.plot(x, y, "o", color=color, markersize=8)
        if key and min(xs) > 0 and log10(max(xs) / min(xs)) >= 1.5:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=not key))
        axes.margins(0.12)
        axes.set_title(short(label, 24), loc="left")
        axes.set_xlabel(key or "trial", fontsize=8, labelpad=1)
        axes.grid(axis="y", color=FLOOR, alpha=0.25, linewidth=0.6)
    drawing.supylabel(metric_title(tuning.objective, comparison.primary), fontsize=9)
    return drawing
