"""Methods tuned to the outermost value tried: a better one may lie beyond, so no verdict is given against them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockpot.report.formatting import listing, plain_number, title
from stockpot.results import Comparison, Difference, Trial

NO_COMPARISON = "no comparison"


def chosen_at_end(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Label → the parameters whose chosen value is the outermost tried, with these values.

    Files that do not record it: as the trials show, where one parameter was searched.
    """
    tuning = comparison.tuning
    if tuning is None:
        return {}
    if tuning.at_end is not None:
        return tuning.at_end
    ends = {label: _at_an_end(trials, tuning.chosen.get(label)) for label, trials in tuning.methods.items()}
    return {label: keys for label, keys in ends.items() if keys}


def searched_strength(trials: list[Trial]) -> str | None:
    """The one number that was searched; None if there are several parameters, or values that are not numbers."""
    keys = {key for trial in trials for key in trial.keys}
    if len(keys) != 1:
        return None
    [key] = keys
    values = [trial.keys.get(key) for trial in trials]
    return key if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) else None


def _at_an_end(trials: list[Trial], chosen: dict[str, Any] | None) -> dict[str, float]:
    key = searched_strength(trials)
    if key is None or chosen is None or key not in chosen:
        return {}
    values = [trial.keys[key] for trial in trials]
    return {key: chosen[key]} if len(set(values)) > 1 and chosen[key] in (min(values), max(values)) else {}


def fair_verdict(difference: Difference, first: str, second: str, at_end: Mapping[str, object]) -> Difference:
    """The difference first − second, without a verdict against a side that was tuned to an end.

    A verdict in favour of that side stands: a better value would only add to it.
    """
    behind = {"worse": first, "better": second}.get(difference.verdict)
    return difference.model_copy(update={"verdict": NO_COMPARISON}) if behind in at_end else difference


def end_sentences(comparison: Comparison) -> list[str]:
    """Which methods were tuned to an end, and what follows."""
    ends = [
        f"{title(label)}'s {listing([f'{key} ({plain_number(value)})' for key, value in keys.items()])}"
        for label, keys in chosen_at_end(comparison).items()
        if label in comparison.methods
    ]
    if not ends:
        return []
    return [
        f"Chosen at the end of what was tried, where a better value may lie beyond: {listing(ends, len(ends))}. "
        "No comparison is made that such a method would lose."
    ]


def chosen_keys(comparison: Comparison, label: str) -> str:
    """The parameters chosen for a method, as text, with those at an end, or at a mathematical limit, marked."""
    tuning = comparison.tuning
    if tuning is None:
        return ""
    marks = dict.fromkeys(chosen_at_end(comparison).get(label, {}), " (end)")
    marks |= dict.fromkeys(tuning.at_limit.get(label, {}), " (limit)")
    chosen = tuning.chosen.get(label, {})
    return ", ".join(f"{key} {plain_number(value)}{marks.get(key, '')}" for key, value in chosen.items())
