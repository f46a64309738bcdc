"""The contents of a data set's rows: texts, prompts with completions, or chats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from stockpot.errors import StockpotError

Message = dict[str, Any]  # role, content, and what else the chat template reads


@dataclass(frozen=True)
class PromptPair:
    """A prompt, and its completion, which alone has a loss."""

    prompt: str
    completion: str


def pair_of(prompt: str, completion: str) -> PromptPair:
    """The pair; raises StockpotError, without naming the row, if there is nothing to learn in it."""
    if not completion.strip():
        raise StockpotError("the completion is empty, so there is nothing to learn")
    return PromptPair(prompt, completion)


@dataclass(frozen=True)
class Chat:
    """A conversation; what the assistant says after the first `prompt_length` messages has a loss."""

    messages: list[Message]
    prompt_length: int = 0


Item = str | PromptPair | Chat


@dataclass(frozen=True)
class TextRows:
    """One part of a data set: the contents of its rows, and which rows they are."""

    place: str  # for errors: the task, the data set and its split
    items: Sequence[Item]
    numbers: Sequence[int]  # of each item, its row in the split, from 0
    rows: Any  # the data set's own rows, in the same order: indexing gives a dictionary
    skipped: int = 0  # empty texts, left out

    def error(self, index: int, reason: str) -> StockpotError:
        """An error in one item, that names its row."""
        return StockpotError(f"{self.place}, row {self.numbers[index]}: {reason}")

    def picked(self, indices: list[int]) -> TextRows:
        """These items alone."""
        return replace(
            self,
            items=[self.items[index] for index in indices],
            numbers=[self.numbers[index] for index in indices],
            rows=self.rows.select(indices),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every string, in order, in hexadecimal."""
        digest = hashlib.sha256()
        for index, item in enumerate(self.items):
            for string in _strings(item):
                try:
                    data = string.encode()
                except UnicodeEncodeError as error:
                    raise self.error(
                        index, f"the text is not valid Unicode ({error.reason}); remove the characters from the row."
                    ) from error
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        return digest.hexdigest()

    def texts(self) -> Iterator[str]:
        """All text of the rows, to train a tokenizer on."""
        for item in self.items:
            if isinstance(item, Chat):
                yield from (str(message["content"]) for message in item.messages)
            else:
                yield from _strings(item)


def _strings(item: Item) -> tuple[str, ...]:
    if isinstance(item, str):
        return (item,)
    if isinstance(item, PromptPair):
        return item.prompt, item.completion
    return json.dumps(item.messages, sort_keys=True, ensure_ascii=False, default=str), str(item.prompt_length)
