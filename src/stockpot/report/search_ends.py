"""Whose parameters were chosen at an end of what was tried: a better value may lie beyond; it is not called worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockpot.report.formatting import listing, title
from stockpot.results import Comparison, Difference, Trial

NO_COMPARISON = "no comparison"
SINGLY = 4  # methods of which each has a sentence of its own


def chosen_at_end(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Label → the parameters that were chosen at the end of what was tried, with their values.

    Of a file that does not say so, what can be told from its trials: where there was one parameter.
    """
    tuning = comparison.tuning
    if tuning is None:
        return {}
    if tuning.at_end is not None:
        return tuning.at_end
    found = {label: _at_an_end(trials, tuning.chosen.get(label)) for label, trials in tuning.methods.items()}
    return {label: keys for label, keys in found.items() if keys}


def searched_strength(trials: list[Trial]) -> str | None:
    """The one number that was searched; None where there are several parameters, or others than numbers."""
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


def fair_verdict(found: Difference, first: str, second: str, ends: Mapping[str, object]) -> Difference:
    """The difference first − second, without a verdict against a side that was chosen at an end.

    A verdict in favour of that side stands: a better value would only add to it.
    """
    behind = {"worse": first, "better": second}.get(found.verdict)
    return found.model_copy(update={"verdict": NO_COMPARISON}) if behind in ends else found


def end_sentences(comparison: Comparison) -> list[str]:
    """Where no comparison is made, and why."""
    found = [
        f"{title(label)}'s {_said(keys)}"
        for label, keys in chosen_at_end(comparison).items()
        if label in comparison.methods
    ]
    if not found:
        return []
    why = "at the end of what was tried, and a better value may lie beyond"
    if len(found) <= SINGLY:
        return [f"{one} was chosen {why}: no comparison that it would lose." for one in found]
    return [f"Chosen {why}: {listing(found, len(found))}. No comparison is made that one of them would lose."]


def _said(keys: Mapping[str, float]) -> str:
    return listing([f"{key} ({plain_number(value)})" for key, value in keys.items()])


def chosen_keys(comparison: Comparison, label: str) -> str:
    """The parameters that tuning chose for a method, in words: those at an end, or at a limit, are called so."""
    tuning = comparison.tuning
    if tuning is None:
        return ""
    marks = dict.fromkeys(chosen_at_end(comparison).get(label, {}), " (end)")
    marks |= dict.fromkeys(tuning.at_limit.get(label, {}), " (limit)")
    chosen = tuning.chosen.get(label, {})
    return ", ".join(f"{key} {plain_number(value)}{marks.get(key, '')}" for key, value in chosen.items())


def plain_number(value: object) -> str:
    """A number as people write it, 1e8 or 0.05; other values as they are."""
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.4g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
