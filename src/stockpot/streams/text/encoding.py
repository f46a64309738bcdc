"""Prompts with completions, and chats, as tokens: which of them are learnt, and what those spell."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockpot.errors import StockpotError
from stockpot.models.tokenizer import end_of_text, start_of_text
from stockpot.streams.text.rows import Chat, Message, PromptPair, TextRows

_BATCH = 1000
Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Said:
    """One row as tokens; `spelled(n)` is how many UTF-8 bytes the learnt ones among the first n spell."""

    tokens: Tokens
    learnt: NDArray[np.bool_]  # of each token; never of the first
    spelled: Callable[[int], int]


def encode(tokenizer: Any, texts: Sequence[str], special: bool = False) -> list[Tokens]:
    """The tokens of each text; `special` adds those that the tokenizer puts around a text."""
    out: list[Tokens] = []
    for start in range(0, len(texts), _BATCH):
        some = list(texts[start : start + _BATCH])
        read = tokenizer(some, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
        out += [np.asarray(tokens, dtype=np.int32) for tokens in read]
    return out


def leading_tokens(tokenizer: Any) -> list[int]:
    """What stands before a prompt: beginning of text, where the tokenizer itself puts it."""
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return list(first) if first == [tokenizer.bos_token_id] else []


def encode_pairs(rows: TextRows, tokenizer: Any, training: bool) -> list[Said]:
    """Prompt and completion as tokens; the completion is learnt, and in training the end of text after it.

    They are tokenised together where the prompt's own tokens begin the result, which keeps the tokens of the whole
    text, and apart where a token would reach across: so generation is always given the tokens that training saw.
    """
    items = [item for item in rows.items if isinstance(item, PromptPair)]
    prompts = encode(tokenizer, [item.prompt for item in items])
    whole = encode(tokenizer, [item.prompt + item.completion for item in items])
    agree = [np.array_equal(both[: len(p)], p) for p, both in zip(prompts, whole, strict=True)]
    apart = iter(encode(tokenizer, [item.completion for item, same in zip(items, agree, strict=True) if not same]))
    before, end, start = (
        leading_tokens(tokenizer),
        [end_of_text(tokenizer)] if training else [],
        start_of_text(tokenizer),
    )
    out = []
    for item, prompt, both, same in zip(items, prompts, whole, agree, strict=True):
        given = np.concatenate([np.array(before, dtype=np.int32), prompt])
        given = given if len(given) else np.array([start], dtype=np.int32)
        completion = both[len(prompt) :] if same else next(apart)
        tokens = np.concatenate([given, completion, np.array(end, dtype=np.int32)])
        out.append(Said(tokens, np.arange(len(tokens)) >= len(given), _spelled(tokenizer, item, tokens, len(given))))
    return out


def _spelled(tokenizer: Any, item: PromptPair, tokens: Tokens, given: int) -> Callable[[int], int]:
    def spelled(count: int) -> int:
        whole = len(item.completion.encode())
        if count >= len(tokens):
            return whole
        kept = tokenizer.decode(tokens[given:count].tolist(), clean_up_tokenization_spaces=False)
        return min(whole, len(kept.encode()))

    return spelled


def render_chat(tokenizer: Any, messages: list[Message], asked: bool = False) -> str:
    """The messages in the tokenizer's chat template; `asked` ends with what makes the assistant speak.

    Raises StockpotError, without its place, where there is no template or it fails.
    """
    if tokenizer.chat_template is None:
        raise StockpotError("the tokenizer has no chat template: give model.chat_template, or another format")
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked))
    except Exception as error:  # a template is a program: it may fail in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise StockpotError(
            f"the chat template fails: {reason}; fix the row, or give another model.chat_template"
        ) from error


def encode_chats(rows: TextRows, tokenizer: Any, training: bool) -> list[Said]:
    """Conversations in the tokenizer's own chat template; what the assistant says is learnt.

    Which tokens that are is what the template marks by `{% generation %}`; without a mark, what each turn of the
    assistant adds to the conversation before it. In training special tokens among them, such as the end of a turn, are
    learnt; otherwise they are left out, so that tokens and bytes speak of the same text.
    """
    marked = re.search(r"\{%-?\s*generation\s*-?%\}", str(tokenizer.chat_template)) is not None
    special = np.array(
        sorted(n for n, token in tokenizer.added_tokens_decoder.items() if token.special), dtype=np.int32
    )
    out = []
    for index, item in enumerate(rows.items):
        assert isinstance(item, Chat)
        try:
            text = render_chat(tokenizer, item.messages)
            tokens, offsets, learnt = (_marked if marked else _turns)(tokenizer, item, text)
        except StockpotError as error:
            raise rows.error(index, f"{error}.") from error
        if not training:
            learnt &= ~np.isin(tokens, special)
        if not learnt.any():
            raise rows.error(index, "the chat template leaves nothing that the assistant says; fix the row.")
        more = int(learnt[0])
        spelled = partial(_covered, text, offsets, learnt, more)
        if more:
            tokens, learnt = np.insert(tokens, 0, start_of_text(tokenizer)), np.insert(learnt, 0, False)
        out.append(Said(tokens, learnt, spelled))
    return out


Placed = tuple[Tokens, NDArray[np.int64], NDArray[np.bool_]]  # tokens, where each lies in the text, which are learnt


def _placed(read: Any, learnt: Any) -> Placed:
    tokens = np.asarray(read["input_ids"], dtype=np.int32)
    return tokens, np.asarray(read["offset_mapping"], dtype=np.int64).reshape(-1, 2), np.array(learnt, dtype=bool)


def _marked(tokenizer: Any, item: Chat, text: str) -> Placed:
    read = tokenizer.apply_chat_template(
        item.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
    )  # fmt: skip
    tokens, offsets, learnt = _placed(read, read["assistant_masks"])
    if item.given:
        learnt &= offsets[:, 0] >= len(_prefix(tokenizer, item.messages[: item.given], text, asked=True))
    return tokens, offsets, learnt


def _turns(tokenizer: Any, item: Chat, text: str) -> Placed:
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens, offsets, learnt = _placed(read, np.zeros(len(read["input_ids"])))
    starts, ends = offsets[:, 0], np.maximum(offsets[:, 1], offsets[:, 0] + 1)
    for number, message in enumerate(item.messages):
        if message["role"] == "assistant" and number >= item.given:
            start = len(_prefix(tokenizer, item.messages[:number], text, asked=True)) if number else 0
            end = len(_prefix(tokenizer, item.messages[: number + 1], text))
            learnt |= (ends > start) & (starts < end)
    return tokens, offsets, learnt


def _prefix(tokenizer: Any, messages: list[Message], text: str, asked: bool = False) -> str:
    prefix = render_chat(tokenizer, messages, asked)
    if not text.startswith(prefix):
        raise StockpotError(
            "the chat template writes the beginning of a conversation differently once it goes on, so what the "
            "assistant says cannot be told: give a model.chat_template with {% generation %} around it"
        )
    return prefix


def _covered(text: str, offsets: NDArray[np.int64], learnt: NDArray[np.bool_], more: int, count: int) -> int:
    """UTF-8 bytes under the learnt ones of the first `count` tokens, `more` of them put before the text.

    Several tokens may share one character.
    """
    under = np.zeros(len(text) + 1, dtype=np.int64)
    chosen = offsets[: count - more][learnt[: count - more]]
    np.add.at(under, chosen[:, 0], 1)
    np.add.at(under, chosen[:, 1], -1)
    return len("".join(letter for letter, depth in zip(text, under.cumsum(), strict=False) if depth > 0).encode())
