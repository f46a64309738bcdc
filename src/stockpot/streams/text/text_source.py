"""Data sets of text to be continued: plain texts, prompts with completions, or chats."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stockpot.errors import StockpotError
from stockpot.streams.recognition import language_reading
from stockpot.streams.spec import DataSpec, Format
from stockpot.streams.text.instructions import has_answers, read_instruction
from stockpot.streams.text.messages import check_column, messages_of
from stockpot.streams.text.rows import Chat, Item, TextRows, pair_of
from stockpot.streams.text.splits import open_splits, part_rows, read_columns
from stockpot.streams.text.templates import open_template

_Row = dict[str, Any]
_KEYS: dict[Format, tuple[str, ...]] = {
    "text": ("text",), "prompt-completion": ("prompt", "completion"), "instruction": ("input",), "chat": ("messages",),
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

    Without a test split, a tenth of the rows is held out. With `tuning`, a fifth of the training rows is held out, and
    is the test part. Empty texts are left out and counted; an empty completion is an error. Raises StockpotError,
    starting with `where`, that names the first bad row.
    """
    _refuse_classes(data, where)
    splits = open_splits(data, where)
    data = _with_format(data, splits[data.train_split], where)
    format = data.format or "text"
    chosen = part_rows(data, splits, where, tuning)
    contents = {part: _read(data, format, splits[name], name, rows, where) for part, (name, rows) in chosen.items()}
    train, test = contents["train"], contents["test"]
    facts = {
        "path": data.path,
        "format": format,
        "train": len(train.items),
        "test": len(test.items),
        "skipped": train.skipped + test.skipped,
        "fingerprint": hashlib.sha256(f"{train.fingerprint}/{test.fingerprint}".encode()).hexdigest()[:16],
    }
    return TextSource(format, train, test, facts)


def open_general_text(data: DataSpec, where: str) -> TextRows:
    """All training rows of a data set of text; `limit` keeps the first ones. Raises as `open_text` does."""
    _refuse_classes(data, where)
    splits = open_splits(data, where)
    split = splits[data.train_split]
    data = _with_format(data, split, where)
    return _read(data, data.format or "text", split, data.train_split, list(range(len(split))), where)


def _refuse_classes(data: DataSpec, where: str) -> None:
    for key in ("classes", "label"):
        if getattr(data, key) is not None:
            raise StockpotError(f"{where}: data.{key} is for classes, not for text to be continued; drop the key.")


def _with_format(data: DataSpec, dataset: Any, where: str) -> DataSpec:
    """The data with its format; where no key says it, with the one that the columns speak for, and its keys."""
    if data.format is not None:
        return data
    formats = [name for name, keys in _KEYS.items() if any(getattr(data, key) is not None for key in keys)]
    if len(formats) > 1:
        raise StockpotError(f"{where}: the keys belong to several formats; choose data.format: {' or '.join(formats)}.")
    keys = {"format": formats[0]} if formats else language_reading(data, dataset, where).keys
    return data.model_copy(update=keys)


def text_column(features: Any, but: str | None = None) -> str | None:
    """The column `text`, or else the only column of strings; None if there are several."""
    columns = [name for name in features if name != but and "string" in str(getattr(features[name], "dtype", ""))]
    return "text" if "text" in columns else columns[0] if len(columns) == 1 else None


def _read(data: DataSpec, format: Format, dataset: Any, split: str, numbers: list[int], where: str) -> TextRows:
    place = f"{where}: {data.path}, split {split!r}"
    columns, read_row = _row_reader(data, format, dataset, place)
    items: list[Item] = []
    kept: list[int] = []
    skipped = 0
    for number, row in read_columns(dataset, columns, numbers, place):
        if data.limit is not None and len(items) == data.limit:
            break
        try:
            item = read_row(row)
        except StockpotError as error:
            raise StockpotError(f"{place}, row {number}: {error}; fix the row, or leave it out.") from error
        if item is None:
            skipped += 1
            continue
        items.append(item)
        kept.append(number)
    if not items:
        raise StockpotError(f"{place}: all of its {len(numbers)} rows are empty; choose another column or split.")
    return TextRows(place, items, kept, dataset.select(kept), skipped)


def _row_reader(
    data: DataSpec, format: Format, dataset: Any, place: str
) -> tuple[list[str], Callable[[_Row], Item | None]]:
    """The columns to read, and a function that makes an item of a row: None for an empty text."""
    features = dataset.features
    names = list(features)
    if format == "text":
        wanted = data.text or text_column(features)
        if wanted is None:
            raise StockpotError(f"{place}: data.text: name the column to learn, or a template. Columns: {names}.")
        text = open_template(wanted, names, f"{place}: data.text")
        return text.columns, lambda row: filled if (filled := text(row)).strip() else None
    if format == "chat" and (data.messages is not None or "messages" in names or not has_answers(data, names)):
        column = data.messages or "messages"
        check_column(column, names, "messages", place)
        return [column], lambda row: Chat(messages_of(row[column], column))
    if format != "prompt-completion":
        return read_instruction(data, names, place, as_chat=format == "chat")
    prompt, completion = data.prompt or "prompt", data.completion or "completion"
    for key, template in (("prompt", data.prompt), ("completion", data.completion)):
        if template is None and key not in names:
            raise StockpotError(f"{place}: data.{key}: name the column, or give a template. Columns: {names}.")
    if all(key in names and not _is_string(features[key]) for key in (prompt, completion)):
        return [prompt, completion], lambda row: _conversation(row[prompt], row[completion], prompt, completion)
    fill_prompt = open_template(prompt, names, f"{place}: data.prompt")
    fill_completion = open_template(completion, names, f"{place}: data.completion")
    columns = list(dict.fromkeys((*fill_prompt.columns, *fill_completion.columns)))
    return columns, lambda row: pair_of(fill_prompt(row), fill_completion(row))


def _is_string(feature: Any) -> bool:
    dtype = getattr(feature, "dtype", None)  # lists and structures of columns have none
    return dtype is not None and not str(dtype).startswith(("list", "dict"))


def _conversation(prompt: Any, completion: Any, *columns: str) -> Chat:
    prompt_messages = messages_of(prompt, columns[0], has_answer=False)
    return Chat([*prompt_messages, *messages_of(completion, columns[1])], len(prompt_messages))
