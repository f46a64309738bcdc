"""All scores of a recipe on one part of a task, and the checks of them before a run."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.scores import SCORES, AnyScore
from stockpot.evaluation.scores.base import Subject, Suits, Unsuited


def measure(scores: Sequence[AnyScore], subject: Subject, needed: str | None = None) -> dict[str, float | None]:
    """Title of each score → its value on the subject.

    None where `tasks` leaves the part out, where the score cannot be measured on it, and where the value is not a
    finite number. Raises StockpotError where `tasks` names a part that the score cannot be measured on, where that is
    the score `needed`, and without the user's consent to run programs.
    """
    values: dict[str, float | None] = {}
    for score in scores:
        value: float | None = None
        if score.tasks is None or subject.task in score.tasks:
            try:
                value = score.measure(subject)
            except Unsuited as error:
                if score.title == needed:
                    raise StockpotError(
                        f"{error} Forgetting is computed from it; name another in `primary`."
                    ) from error
                if score.tasks is not None:
                    raise
        values[score.title] = value if value is not None and isfinite(value) else None
    return values


_MODELS: dict[Suits, str] = {
    "classifier": "a classifier",
    "multi-label": "data.problem_type: multi_label_classification",
    "regression": "data.problem_type: regression",
    "language": "`scenario: language`",
}


def _instead(kind: Suits) -> str:
    """The scores that a model of this kind has."""
    names = [name for name, score in SCORES.items() if kind in score.suits]
    return f" Those for {_MODELS[kind]}: {', '.join(names)}."


def check_scores(
    scores: Sequence[AnyScore],
    tasks: Sequence[str],
    controls: Sequence[str] = (),
    kind: Suits = "language",
    primary: str | None = None,
) -> None:
    """Raises StockpotError for scores that share a title, name unknown tasks, or do not suit what the model answers.

    `primary` is the title of the score that the metrics are computed from, the first one by default; it must be
    measured on every task.
    """
    titles, names = [score.title for score in scores], [*tasks, *controls]
    for score in scores:
        where = f"metrics: {score.title}"
        if titles.count(score.title) > 1:
            raise StockpotError(f"{where}: two metrics have this name; give one of them a `label`.")
        for name in score.tasks or ():
            if name not in names:
                hint = did_you_mean(name, names)
                raise StockpotError(f"{where}: tasks: there is no {name!r}.{hint} Known: {', '.join(names)}.")
        if kind not in score.suits:
            models = " or ".join(_MODELS[other] for other in score.suits)
            raise StockpotError(f"{where}: this score is for {models}; leave it out.{_instead(kind)}")
    if primary is not None and primary not in titles:
        hint = did_you_mean(primary, titles)
        raise StockpotError(f"primary: there is no score {primary!r}.{hint} Measured: {', '.join(titles)}.")
    first = scores[0 if primary is None else titles.index(primary)]
    left_out = [task for task in tasks if first.tasks is not None and task not in first.tasks]
    if left_out:
        raise StockpotError(
            f"metrics: {first.title}: forgetting is computed from this score, so it must be measured on every task, "
            f"and its `tasks` leaves out {left_out[0]!r}; name another one in `primary`."
        )
