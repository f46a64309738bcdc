"""How the parameters were chosen: the same number of trials for every method that has parameters."""

from __future__ import annotations

from math import log10

from stockpot.evaluation.statistics import lower_is_better
from stockpot.printing import counted
from stockpot.report.charts import FLOOR, FULL_WIDTH, Chart, Spec, chart, distinct, hover, looks, mark, number
from stockpot.report.formatting import MISSING, listing, metric_title, plain_number, score, title
from stockpot.report.ranking import ranked
from stockpot.report.search_ends import chosen_keys, searched_strength
from stockpot.report.tables import Grid
from stockpot.results import Comparison, Trial, Tuning

MOST_TUNED = 30  # panels


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


def tuning_figure(comparison: Comparison) -> Chart:
    """A panel for each of the best methods: its trials' scores over its strength, or over their number."""
    tuning = comparison.tuning
    assert tuning is not None
    labels, method_looks = tuned(comparison)[:MOST_TUNED], looks(comparison)
    titles, across = distinct(labels, 26), min(4, len(labels))
    width = (FULL_WIDTH - 40) // max(across, 2) - 50
    objective = metric_title(tuning.objective, comparison.primary)
    panels = []
    for title_of_panel, label in zip(titles, labels, strict=True):
        trials = tuning.methods[label]
        key = searched_strength(trials)
        color = method_looks[label].color if label in method_looks else FLOOR
        rows = [
            {"method": label, "strength": float(trial.keys[key]) if key else index + 1.0, "score": trial.score,
             "chosen": _is_chosen(trial, tuning, label), "said": score(trial.score, comparison.unit),
             "keys": ", ".join(f"{name} {plain_number(value)}" for name, value in trial.keys.items())}
            for index, trial in enumerate(trials)
            if trial.score is not None
        ]  # fmt: skip
        values = [row["strength"] for row in rows if isinstance(row["strength"], float)]
        decades = bool(key and values and min(values) > 0 and log10(max(values) / min(values)) >= 1.5)
        scale = {"type": "log", "nice": False, "padding": 8} if decades else {"nice": False, "padding": 8}
        encoding = {
            "x": number("strength", key or "trial", scale, axis={"grid": False, "tickCount": 3, "labelOverlap": True}),
            "y": number("score", None, {"padding": 8, "nice": False}, axis={"tickCount": 4}),
            "tooltip": hover(keys="trial", said=objective),
        }
        line = {axis: encoding[axis] for axis in ("x", "y")}
        layers = [mark("line", line, color=color, strokeWidth=1.2, aria=False)] if key else []
        layers += [
            mark("point", encoding, color=color, size=22),
            mark("point", encoding, color=color, size=110, transform=[{"filter": "datum.chosen"}]),
        ]
        panels.append(
            {"data": {"values": rows}, "title": title_of_panel, "width": width, "height": 110, "layer": layers}
        )
    parts: Spec = {"concat": panels, "columns": across, "resolve": {"scale": {"y": "shared"}}}
    return chart(parts, wide=True)
