"""One row's messages: lists of {role, content}, or of {from, value} as ShareGPT writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from stockpot.errors import StockpotError, did_you_mean
from stockpot.streams.text.rows import Message

# Who speaks, as ShareGPT and its descendants call them → the role that chat templates know.
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "bot", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}


def check_column(column: str, names: Sequence[str], key: str, place: str) -> None:
    """Raises StockpotError if there is no such column."""
    if column not in names:
        hint = did_you_mean(column, names)
        raise StockpotError(f"{place}: data.{key}: there is no column {column!r}.{hint} Columns: {list(names)}.")


def messages_of(value: Any, column: str, has_answer: bool = True) -> list[Message]:
    """The messages of one row, without empty keys; raises StockpotError if the assistant says nothing in them."""
    # Of a list of structures `datasets` may make a structure of lists.
    if isinstance(value, dict) and all(isinstance(each, list) for each in value.values()):
        value = [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise StockpotError(f"column {column!r} should hold a list of messages with role and content")
    messages = [
        {key: content for key, content in message.items() if content is not None} for message in cast(Any, value)
    ]
    messages = [_from_sharegpt(message, number, column) for number, message in enumerate(messages)]
    for number, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise StockpotError(f"message {number} of column {column!r} has no text as {key}")
    if has_answer and not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        raise StockpotError(f"the assistant says nothing in column {column!r}, so there is nothing to learn")
    return messages


def _from_sharegpt(message: Message, number: int, column: str) -> Message:
    """A turn {from, value} as {role, content}; other messages as they are."""
    if "role" in message or "from" not in message:
        return message
    speaker = message["from"]
    if speaker not in _SPEAKERS:
        raise StockpotError(
            f"message {number} of column {column!r} is from {speaker!r}, which is none of {', '.join(_SPEAKERS)}"
        )
    return {"role": _SPEAKERS[speaker], "content": message.get("value")}
