"""A data set of text as strings: what is to be learnt, of a training and a test part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.spec import DataSpec, Format
from stockpot.streams.text.rows import Chat, Item, Message, PromptPair, TextRows
from stockpot.streams.text.splits import open_splits, part_rows, read_columns
from stockpot.streams.text.templates import open_template

_Row = dict[str, Any]
KEYS: dict[Format, tuple[str, ...]] = {
    "text": ("text",), "prompt-completion": ("prompt", "completion"), "chat": ("messages",),
}  # fmt: skip


@dataclass(frozen=True)
class TextSource:
    """A data set's format and its two parts; `facts` has path, sizes and a fingerprint over all strings."""

    format: Format
    train: TextRows
    test: TextRows
    facts: dict[str, Any]


def open_text(data: DataSpec, where: str, tuning: bool = False) -> TextSource:
    """Opens the data set of text that `data` names; `limit` keeps the first rows of each part.

    Without a test split, a tenth of the rows is held out. With `tuning`, a fifth of the training rows is held out and
    stands for the test part. Empty texts are left out and counted; an empty completion is an error.
    Raises StockpotError that says where it was asked for, and which row of which split is bad.
    """
    for key in ("classes", "label"):
        if getattr(data, key) is not None:
            raise StockpotError(f"{where}: data.{key} is for classes, not for text to be continued; drop the key.")
    splits = open_splits(data, where)
    learnt = _format(data, splits[data.train_split].features, where)
    chosen = part_rows(data, splits, where, tuning)
    read = {part: _read(data, learnt, splits[name], name, rows, where) for part, (name, rows) in chosen.items()}
    train, test = read["train"], read["test"]
    facts = {
        "path": data.path,
        "format": learnt,
        "train": len(train.items),
        "test": len(test.items),
        "skipped": train.skipped + test.skipped,
        "fingerprint": hashlib.sha256(f"{train.fingerprint}/{test.fingerprint}".encode()).hexdigest()[:16],
    }
    return TextSource(learnt, train, test, facts)


def _format(data: DataSpec, features: Any, where: str) -> Format:
    if data.format is not None:
        return data.format
    asked = [name for name, keys in KEYS.items() if any(getattr(data, key) is not None for key in keys)]
    if len(asked) > 1:
        raise StockpotError(f"{where}: the keys belong to several formats; choose data.format: {' or '.join(asked)}.")
    if asked:
        return asked[0]
    if "messages" in features:
        return "chat"
    if "prompt" in features and "completion" in features:
        return "prompt-completion"
    if text_column(features) is not None:
        return "text"
    raise StockpotError(
        f"{where}: which column is to be learnt cannot be told: give data.text, or data.prompt and data.completion, "
        f"or data.messages. Columns: {list(features)}."
    )


def text_column(features: Any, but: str | None = None) -> str | None:
    """The column `text`, or the only one of strings."""
    found = [name for name in features if name != but and "string" in str(getattr(features[name], "dtype", ""))]
    return "text" if "text" in found else found[0] if len(found) == 1 else None


def _read(data: DataSpec, learnt: Format, dataset: Any, split: str, numbers: list[int], where: str) -> TextRows:
    place = f"{where}: {data.path}, split {split!r}"
    columns, read = _reader(data, learnt, dataset, place)
    items: list[Item] = []
    kept: list[int] = []
    skipped = 0
    for number, row in read_columns(dataset, columns, numbers, place):
        if data.limit is not None and len(items) == data.limit:
            break
        try:
            item = read(row)
        except StockpotError as error:
            raise StockpotError(f"{place}, row {number}: {error}; fix the row, or leave it out.") from error
        if item is None:
            skipped += 1
            continue
        items.append(item)
        kept.append(number)
    if not items:
        raise StockpotError(f"{place}: every one of its {len(numbers)} rows is empty; choose another column or split.")
    return TextRows(place, items, kept, dataset.select(kept), skipped)


def _reader(
    data: DataSpec, learnt: Format, dataset: Any, place: str
) -> tuple[list[str], Callable[[_Row], Item | None]]:
    """The columns that are needed, and what makes an item of them; None is an empty text."""
    features = dataset.features
    names = list(features)
    if learnt == "chat":
        column = data.messages or "messages"
        _known(column, names, "messages", place)
        return [column], lambda row: Chat(_messages(row[column], column))
    if learnt == "text":
        wanted = data.text or text_column(features)
        if wanted is None:
            raise StockpotError(f"{place}: data.text: name the column to learn, or a template. Columns: {names}.")
        text = open_template(wanted, names, f"{place}: data.text")
        return text.columns, lambda row: said if (said := text(row)).strip() else None
    prompt, completion = data.prompt or "prompt", data.completion or "completion"
    for key, given in (("prompt", data.prompt), ("completion", data.completion)):
        if given is None and key not in names:
            raise StockpotError(f"{place}: data.{key}: name the column, or give a template. Columns: {names}.")
    if all(key in names and not _stringy(features[key]) for key in (prompt, completion)):
        return [prompt, completion], lambda row: _talk(row[prompt], row[completion], prompt, completion)
    asked = open_template(prompt, names, f"{place}: data.prompt")
    said = open_template(completion, names, f"{place}: data.completion")
    columns = list(dict.fromkeys((*asked.columns, *said.columns)))
    return columns, lambda row: _pair(asked(row), said(row))


def _stringy(feature: Any) -> bool:
    dtype = getattr(feature, "dtype", None)  # lists and structures of columns have none
    return dtype is not None and not str(dtype).startswith(("list", "dict"))


def _known(column: str, names: list[str], key: str, place: str) -> None:
    if column not in names:
        hint = did_you_mean(column, names)
        raise StockpotError(f"{place}: data.{key}: there is no column {column!r}.{hint} Columns: {names}.")


def _pair(prompt: str, completion: str) -> PromptPair:
    if not completion.strip():
        raise StockpotError("the completion is empty, so there is nothing to learn")
    return PromptPair(prompt, completion)


def _talk(prompt: Any, completion: Any, *columns: str) -> Chat:
    given, said = _messages(prompt, columns[0], learnt=False), _messages(completion, columns[1])
    return Chat([*given, *said], len(given))


def _messages(value: Any, column: str, learnt: bool = True) -> list[Message]:
    """The messages of one row, without keys that hold nothing; raises StockpotError where there is nothing to learn."""
    if isinstance(value, dict) and all(isinstance(each, list) for each in value.values()):  # columns of messages
        value = [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise StockpotError(f"column {column!r} should hold a list of messages with role and content")
    messages = [{key: held for key, held in message.items() if held is not None} for message in cast(Any, value)]
    for number, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise StockpotError(f"message {number} of column {column!r} has no {key} that is text")
    if learnt and not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        raise StockpotError(f"no message of column {column!r} is said by the assistant, so there is nothing to learn")
    return messages
