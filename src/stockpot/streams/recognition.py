"""How a data set is read where the recipe does not say: told from its columns, with the reason in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stockpot.batches.losses import SINGLE_LABEL
from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.columns import PICTURES, DataColumn, survey
from stockpot.streams.labelled import several_columns
from stockpot.streams.spec import DataSpec
from stockpot.streams.values import value_columns

# Columns of a prompt and of its answer, by the names that data sets give them; the first pair that is there counts.
_PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("prompt", "answer"), ("question", "answer"),
    ("query", "response"), ("problem", "solution"), ("input", "output"), ("source", "target"),
)  # fmt: skip
ANSWERS = ("output", "response", "answer", "completion")  # of an instruction
MORE_INPUT = ("input", "context")  # of an instruction, which may be empty
_LABELS = ("label", "labels", "class", "category", "target", "intent")  # columns of classes, by the usual names
_TEXTS = ("text", "sentence", "content", "review", "document")  # columns of texts to classify
_LANGUAGE_KEYS: tuple[str, ...] = ("format", "text", "prompt", "completion", "input", "messages")
_MOST_LISTED = 12  # columns in a message


@dataclass(frozen=True)
class Reading:
    """How a data set is read: what its rows are taken for, the keys that say so, and the reason."""

    rows: str  # chats, prompts with completions, instructions, texts, texts with classes, images with classes
    why: str
    keys: dict[str, str] = field(default_factory=dict)
    hint: str = ""  # how to read it otherwise

    def sentence(self, path: str | None) -> str:
        """What was guessed and why, in one line."""
        return f"{path}: read as {self.rows}: {self.why}{f' ({self.hint})' if self.hint else ''}"


def says_language(data: DataSpec) -> bool:
    """Whether a key of the recipe says what of a text is learnt."""
    return any(getattr(data, key) is not None for key in _LANGUAGE_KEYS)


def language_reading(data: DataSpec, dataset: Any, where: str) -> Reading:
    """How a language model reads a split, where no key says it.

    Raises StockpotError, starting with `where`, with the candidates, where the columns allow several readings or none.
    """
    columns = survey(dataset)
    chats = [c for c in columns.values() if c.content in ("messages", "ShareGPT turns")]
    for choose in (_chat, _pair, _instruction, _named_text, _other_pair, _only_text):
        if reading := choose(columns, chats):
            return reading
    choices = [f"data.messages: {column.name}" for column in chats]
    choices += [f"data.text: {column.name}" for column in columns.values() if column.content == "texts"]
    listed = f" Candidates: {', '.join(choices)}." if choices else ""
    raise StockpotError(
        f"{where}: {data.path}: it is not clear which column to learn: give data.text, or data.prompt and "
        f"data.completion, or data.messages.{listed} Columns: {list(columns)[:_MOST_LISTED]}."
    )


def _chat(columns: dict[str, DataColumn], chats: Sequence[DataColumn]) -> Reading | None:
    named = [column for column in chats if column.name == "messages"] or list(chats)
    if "messages" in columns and not named:  # rows that are wrong, which reading says
        return Reading("chats", "there is a column `messages`", {"format": "chat", "messages": "messages"})
    if len(named) != 1:
        return None
    column = named[0]
    turns = "{role, content}" if column.content == "messages" else "{from, value}, as ShareGPT writes them"
    keys = {"format": "chat", "messages": column.name}
    return Reading("chats", f"column `{column.name}` holds lists of {turns}", keys)


def _pair(columns: dict[str, DataColumn], chats: Sequence[DataColumn]) -> Reading | None:
    return _paired(columns, "prompt", "completion") if {"prompt", "completion"} <= columns.keys() else None


def _paired(columns: dict[str, DataColumn], prompt: str, completion: str) -> Reading:
    keys = {"format": "prompt-completion", "prompt": prompt, "completion": completion}
    hint = "" if columns[prompt].content == "messages" else "format: chat puts them into the model's chat template"
    why = f"columns `{prompt}` and `{completion}`, of which the second is learnt"
    return Reading("prompts with completions", why, keys, hint)


def _named_text(columns: dict[str, DataColumn], chats: Sequence[DataColumn]) -> Reading | None:
    if "text" not in columns or columns["text"].content not in ("texts", "words", "names of image files"):
        return None
    return Reading("texts", "column `text`, all of which is learnt", {"format": "text", "text": "text"})


def _instruction(columns: dict[str, DataColumn], chats: Sequence[DataColumn]) -> Reading | None:
    answer = next((name for name in ANSWERS if name in columns), None)
    if "instruction" not in columns or answer is None or "text" in columns:
        return None
    more = next((name for name in MORE_INPUT if name in columns), None)
    keys = {"format": "instruction", "prompt": "instruction", "completion": answer, **({"input": more} if more else {})}
    listed = ", ".join(f"`{name}`" for name in ("instruction", more, answer) if name)
    hint = "format: chat puts them into the model's chat template"
    return Reading("instructions in Alpaca's template", f"columns {listed}, of which the last is learnt", keys, hint)


def _other_pair(columns: dict[str, DataColumn], chats: Sequence[DataColumn]) -> Reading | None:
    pairs = [
        pair
        for pair in _PAIRS
        if all(columns.get(n, DataColumn(n, "other")).content in ("texts", "words") for n in pair)
    ]
    return _paired(columns, *pairs[0]) if len(pairs) == 1 else None


def _only_text(columns: dict[str, DataColumn], chats: Sequence[DataColumn]) -> Reading | None:
    if chats:
        return None
    strings = [c.name for c in columns.values() if c.content in ("texts", "words", "names of image files")]
    texts = [c.name for c in columns.values() if c.content == "texts"]
    chosen = strings if len(strings) == 1 else texts
    if len(chosen) != 1:
        return None
    why = f"`{chosen[0]}` is the only column of text, and all of it is learnt"
    return Reading("texts", why, {"format": "text", "text": chosen[0]})


def class_reading(data: DataSpec, dataset: Any, where: str) -> Reading:
    """How a classifier reads a split, where no key says it: which column holds pictures or texts, and which classes.

    With several labels or numbers an example `data.label` names their columns, and the keys have none. Raises
    StockpotError, starting with `where`, with the candidates, where there are several or none.
    """
    columns = survey(dataset)
    pictures = [column for column in columns.values() if column.content in PICTURES]
    of_images = data.text is None and (bool(pictures) or data.image is not None)
    if data.problem != SINGLE_LABEL:
        labels = value_columns(data, dataset.features, where)
        noun, keys = ("labels" if data.problem == "multi_label_classification" else "numbers"), {}
    else:
        labels = [_class_column_of(data, columns, where, several=not of_images)]
        noun, keys = "classes", {"label": labels[0]}
    listed = ", ".join(f"`{label}`" for label in labels)
    if of_images:
        image = data.image or _chosen(pictures, "image", where, columns).name
        why = f"column `{image}` holds {columns[image].content}, {listed} their {noun}"
        return Reading(f"images with {noun}", why, {"image": image, **keys})
    text = data.text or _text_to_classify(columns, labels, where)
    counted = columns.get(labels[0])
    count = f", {counted.distinct} in {counted.rows} rows" if keys and counted and counted.distinct else ""
    why = f"column `{text}` holds text, {listed} its {noun}{count}"
    return Reading(f"texts with {noun}", why, {"text": text, **keys}, "to continue texts: scenario: language")


def _class_column_of(data: DataSpec, columns: dict[str, DataColumn], where: str, several: bool) -> str:
    if isinstance(data.label, list):
        raise several_columns(where)
    if data.label is not None and data.label not in columns:
        hint = did_you_mean(data.label, columns)
        raise StockpotError(f"{where}: data.label: there is no column {data.label!r}.{hint} Columns: {list(columns)}.")
    return data.label or class_column(columns, where, several)


def may_be_classified(data: DataSpec, dataset: Any, where: str) -> bool:
    """Whether a split holds images, or texts with classes, where the recipe names no scenario.

    Raises StockpotError where texts could be continued as well as classified.
    """
    columns = survey(dataset)
    if any(column.content in PICTURES for column in columns.values()):
        return True
    if any(column.content in ("messages", "ShareGPT turns") for column in columns.values()):
        return False
    if any(name in columns for name in _LABELS) or any(c.content == "classes" for c in columns.values()):
        return True
    candidates = [c.name for c in columns.values() if c.may_be_classes and c.name != "text"]
    try:
        reading = language_reading(data, dataset, where) if data.text is None else None
    except StockpotError:
        if not candidates:
            raise
        reading = None
    if candidates and (reading is None or reading.keys["format"] == "text"):
        listed = " or ".join(f"data.label: {name}" for name in candidates[:3])
        raise StockpotError(
            f"{where}: {data.path}: it is not clear whether texts are to be classified or continued: set {listed}, or "
            f"scenario: language. Columns: {list(columns)[:_MOST_LISTED]}."
        )
    return False


def class_column(columns: dict[str, DataColumn], where: str, several: bool = True) -> str:
    """The column of the classes: by type, by name, or because its values come again.

    With `several`, `label` is preferred to other columns of that type; without, they must be chosen from.
    """
    typed = [column for column in columns.values() if column.content == "classes"]
    named = [columns[name] for name in _LABELS if name in columns]
    preferred = [column for column in typed if several and column.name == "label"] if typed else named[:1]
    for candidates in (preferred, typed):
        if len(candidates) == 1:
            return candidates[0].name
    rest = typed or [column for column in columns.values() if column.may_be_classes]
    return _chosen(rest, "label", where, columns).name


def _chosen(candidates: Sequence[DataColumn], key: str, where: str, columns: dict[str, DataColumn]) -> DataColumn:
    if len(candidates) == 1:
        return candidates[0]
    names = [column.name for column in candidates]
    state = f"there are several such columns, {names}" if names else f"none of the columns {list(columns)} fits"
    raise StockpotError(f"{where}: data.{key}: {state}; name the column.")


def _text_to_classify(columns: dict[str, DataColumn], labels: Sequence[str], where: str) -> str:
    strings = [c for c in columns.values() if c.content in ("texts", "words") and c.name not in labels]
    named = [c for name in _TEXTS for c in strings if c.name == name]
    texts = [c for c in strings if c.content == "texts"]
    for candidates in (named[:1], strings, texts):
        if len(candidates) == 1:
            return candidates[0].name
    if not strings:
        raise StockpotError(
            f"{where}: data.text: name the column to classify, or a template. Columns: {list(columns)[:_MOST_LISTED]}."
        )
    choices = ", ".join(c.name for c in strings)
    template = " ".join(f"{{{c.name}}}" for c in strings[:2])
    raise StockpotError(
        f"{where}: data.text: several columns hold text: {choices}; name one, or a template such as '{template}'."
    )
