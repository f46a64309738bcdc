"""The page of every key of a recipe, made of the models that check it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stockpot.evaluation.scores import SCORES
from stockpot.evaluation.scores.base import Score
from stockpot.markdown import code_span, escape_markdown
from stockpot.methods.base import BaseConfig
from stockpot.recipe.schema import Recipe, Split

OPENING = """\
# Every key of a recipe

Made from the code by `make docs`. [A stream of tasks](stream.md) shows how the keys go together, and `stockpot schema`
prints the JSON schema, with which an editor completes and checks recipes. `stockpot add` reads one entry of `tasks`.

A key can be changed on the command line, `train.learning_rate=1e-4`; entries of a list are numbered from 0,
`tasks.0.data.limit=100`. An unknown key is an error."""
METRICS = "A list of names, or of blocks with a `name` and settings. Every metric has these two:"
ELSEWHERE = {
    "method": "how the past is kept: see [Methods](methods.md)",
    "metrics": "the scores of every task and control, see [below](#metrics); default: accuracy; for a language loss "
    "and bits per byte",
    "compare": "methods, as `method` has one: those of `stockpot compare`",
    "scenario": "what the tasks have in common: see [A stream of tasks](stream.md#what-goes-into-a-recipe)",
}  # fmt: skip


def recipe_page() -> str:
    """The page in Markdown: a section for each block, then one for the metrics."""
    parts = [OPENING]
    for path, block in _blocks(Recipe):
        title = {Recipe: "The recipe", Split: "`tasks`, as one block"}.get(block, f"`{path}`")
        parts.append(f"## {title}\n\n{_summary(block)}\n\n{_table(block.model_fields, block)}")
    shared = {key: info for key, info in Score.model_fields.items() if key != "name"}
    parts.append(f"## `metrics`\n\n{METRICS}\n\n{_table(shared, Score)}")
    for name, score in SCORES.items():
        added = {
            key: info for key, info in score.model_fields.items() if key != "name" and not _same(info, shared.get(key))
        }
        parts.append(f"### `{name}`\n\n{_summary(score)}")
        parts += [_table(added, score)] if added else []
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _blocks(root: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The recipe and the blocks inside it with their paths, each once, those of `data` before those inside `data`."""
    paths: dict[type[BaseModel], str] = {root: ""}
    waiting = [root]
    while waiting:
        block = waiting.pop(0)
        yield paths[block], block
        for key, info in block.model_fields.items():
            for inner in _models_in(info.annotation):
                if inner not in paths:
                    paths[inner] = f"{paths[block]}.{key}".removeprefix(".")
                    waiting.append(inner)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, BaseModel) and not issubclass(annotation, BaseConfig | Score):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _models_in(part)


def _summary(block: type[BaseModel]) -> str:
    return _prose((block.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " "))


def _same(info: FieldInfo, other: FieldInfo | None) -> bool:
    """Whether a field is inherited as it is."""
    return other is not None and (info.description, info.default) == (other.description, other.default)


def _prose(text: str) -> str:
    """The text with what stands between backticks as code, and all else escaped."""
    words = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(f"`{code_span(word.strip('`'))}`" if word.startswith("`") else _escaped(word) for word in words)


def _escaped(text: str) -> str:
    """As `escape_markdown`, which drops spaces at the ends."""
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :] if text.strip() else ""
    return before + escape_markdown(text) + after


def _table(fields: Mapping[str, FieldInfo], block: type[BaseModel]) -> str:
    rows = [f"| `{key}` | {_default(info)} | {_words(key, info, block)} |" for key, info in fields.items()]
    return "\n".join(["| key | default | what it is |", "|---|---|---|", *rows])


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    shown = "" if value is None or isinstance(value, BaseModel) or value in ([], {}, ()) else value
    return "" if shown == "" else f"`{code_span(str(shown).lower() if isinstance(shown, bool) else shown)}`"


def _words(key: str, info: FieldInfo, block: type[BaseModel]) -> str:
    """The description, and the words that the key may hold."""
    if block is Recipe and key in ELSEWHERE:
        return ELSEWHERE[key]
    words = [_prose(info.description)] if info.description else []
    choices = [f"`{word}`" for word in _choices(info.annotation) if word is not None]
    words += [" or ".join(choices)] if len(choices) > 1 else []
    inner = next(_models_in(info.annotation), None)
    return "; ".join(words) or (_summary(inner).rstrip(".") if inner else "")


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is not Annotated:
        for part in get_args(annotation):
            yield from _choices(part)
