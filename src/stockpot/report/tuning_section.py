"""How the parameters were chosen: the same number of trials for every method that has parameters."""

from __future__ import annotations

from math import log10

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stockpot.evaluation.statistics import lower_is_better
from stockpot.printing import counted
from stockpot.report.figures import FIGURE_WIDTH, FLOOR, looks, short, styled
from stockpot.report.formatting import MISSING, listing, metric_title, score, title
from stockpot.report.ranking import ranked
from stockpot.report.search_ends import chosen_keys, searched_strength
from stockpot.report.tables import Grid
from stockpot.results import Comparison, Trial, Tuning


def tuned(comparison: Comparison) -> list[str]:
    """The labels with trials, by rank in the reported runs; then those that the comparison does not have."""
    tuning = comparison.tuning
    assert tuning is not None
    order = [label for label, _ in ranked(comparison)] + list(tuning.methods)
    return [label for label in dict.fromkeys(order) if tuning.methods.get(label)]


def tuning_facts(comparison: Comparison) -> list[str]:
    """How the search was made, and which methods had nothing to tune."""
    tuning = comparison.tuning
    assert tuning is not None
    search = {"grid": "grid", "random": "random search", "optuna": "Optuna"}[tuning.search]
    fewer = "at most " if any(0 < len(trials) < tuning.trials for trials in tuning.methods.values()) else ""
    seeds = f"{counted(len(tuning.seeds), 'seed')} ({', '.join(map(str, tuning.seeds))})"
    facts = [
        f"Search, before the reported runs: {search}, {fewer}{counted(tuning.trials, 'trial')} for each method, "
        f"{seeds}, by {metric_title(tuning.objective, comparison.primary)} on {tuning.split}."
    ]
    if tuning.extensions:
        facts.append(
            f"A best value was the outermost tried, so the search was extended {counted(tuning.extensions, 'time')}: "
            f"up to {tuning.further_trials} further trials for each method, beyond the end where it was at one, else "
            "around its best value."
        )
    untuned = [title(label) for label in comparison.methods if not tuning.methods.get(label)]
    return [*facts, f"No parameters to tune: {listing(untuned, 6)}."] if untuned else facts


def tuning_grid(comparison: Comparison) -> Grid:
    """For each method the chosen values, the score of its best trial, and how many trials it had."""
    tuning = comparison.tuning
    assert tuning is not None
    rows = []
    for label in tuned(comparison):
        trials = tuning.methods[label]
        diverged = sum(trial.score is None for trial in trials)
        count = f"{len(trials)} ({diverged} diverged)" if diverged else str(len(trials))
        best = _best(trials, lower_is_better(tuning.objective, comparison.higher_is_better))
        rows.append((label, [chosen_keys(comparison, label) or MISSING, score(best, comparison.unit), count]))
    chosen = " ".join(values[0] for _, values in rows)
    caption = f"Chosen parameters, and the best trial's {metric_title(tuning.objective, comparison.primary)} on the "
    caption += f"tuning split; {counted(len(tuning.seeds), 'seed')}"
    caption += "; end: the outermost value tried, beyond which a better one may lie" if "(end)" in chosen else ""
    caption += "; limit: a mathematical limit, beyond which nothing lies" if "(limit)" in chosen else ""
    return Grid(caption, ["chosen", "best trial", "trials"], rows)


def _best(trials: list[Trial], lower: bool) -> float | None:
    scores = [trial.score for trial in trials if trial.score is not None]
    return (min if lower else max)(scores, default=None)


def _is_chosen(trial: Trial, tuning: Tuning, label: str) -> bool:
    chosen = tuning.chosen.get(label)
    return (
        chosen is not None
        and bool(chosen)
        and all(chosen.get(key, value) == value for key, value in trial.keys.items())
    )


@styled
def tuning_figure(comparison: Comparison) -> Figure:
    """A panel for each method: each trial's score over its strength, or over its number; the chosen one large."""
    tuning = comparison.tuning
    assert tuning is not None
    labels, method_looks = tuned(comparison), looks(comparison)
    columns = min(4, len(labels))
    lines = -(-len(labels) // columns)
    drawing = Figure(figsize=(max(FIGURE_WIDTH, 2.3 * columns), 0.5 + 1.5 * lines), layout="constrained")
    grid = drawing.subplots(lines, columns, sharey=True, squeeze=False).ravel().tolist()
    for unused in grid[len(labels) :]:
        unused.set_visible(False)
    for axes, label in zip(grid, labels, strict=False):
        trials = tuning.methods[label]
        key = searched_strength(trials)
        color = method_looks[label].color if label in method_looks else FLOOR
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
