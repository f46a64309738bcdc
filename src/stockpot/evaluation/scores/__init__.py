"""The scores of a recipe's `metrics`, one file each: its settings, its unit, which way it runs, and how it is measured.

A new score is one new file in this folder: the registry is filled from the folder, and the recipe, its JSON schema, the
checks before a run and the report know the score from there.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, SerializeAsAny, WrapValidator

from stockpot.evaluation.scores.base import Score, Suits
from stockpot.evaluation.scores.brought import ScoreByPath, open_brought
from stockpot.plugins import PATH_PATTERN


def _scores_of_this_folder() -> dict[str, type[Score]]:
    """The name that recipes use → its class, in the order of the files."""
    scores: dict[str, type[Score]] = {}
    for file in iter_modules(__path__):
        if file.name in ("base", "brought"):
            continue
        module = import_module(f"{__name__}.{file.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Score) and value.__module__ == module.__name__:
                scores[str(value.model_fields["name"].default)] = value
    return scores


SCORES = _scores_of_this_folder()


def _open_score(value: Any, handler: Any, info: Any) -> Any:
    """A score of this folder, or one that users bring; a bare name stands for a block.

    With `context={"reading": True}` no code that users bring is imported: its block is an `UnopenedScore`.
    """
    block = {"name": value} if isinstance(value, str) else value
    if not isinstance(block, dict):
        return block if isinstance(block, Score) else handler(block)
    if block.get("name") is None:
        raise ValueError("a metric needs its `name`")
    if block["name"] in SCORES:
        return handler(block)
    return open_brought(block, list(SCORES), bool((info.context or {}).get("reading")))


if TYPE_CHECKING:
    AnyScore = Score
else:
    _Path = Annotated[str, Field(pattern=PATH_PATTERN)]
    _Blocks = Annotated[Union[tuple(SCORES.values())], Discriminator("name")]  # noqa: UP007
    AnyScore = Annotated[
        _Blocks,
        SerializeAsAny(),
        WrapValidator(_open_score, json_schema_input_type=_Blocks | Literal[tuple(SCORES)] | ScoreByPath | _Path),
    ]


_DEFAULTS: dict[Suits, tuple[str, ...]] = {
    "classifier": ("accuracy",),
    "multi-label": ("mean_average_precision", "micro_f1", "macro_f1"),
    "regression": ("rmse", "r2"),
    "language": ("loss", "bits_per_byte"),
}


def default_scores(kind: Suits) -> list[AnyScore]:
    """What is measured where the recipe names no metrics; the first is the primary one."""
    names = _DEFAULTS[kind]
    return [SCORES[name].model_validate({"name": name}) for name in names]
