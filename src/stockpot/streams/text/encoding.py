"""Prompts with completions, and chats, as tokens: which of them have a loss, and how many bytes those spell.

A tokenizer may merge characters across the border between two pieces of text, so tokens of the whole text are not
always the tokens of the pieces. Everything here keeps two promises: generation is given exactly the tokens that
training saw before a completion, and bytes are counted of exactly the text whose tokens have a loss.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stockpot.errors import StockpotError
from stockpot.models.tokenizer import end_of_text, start_of_text
from stockpot.streams.text.rows import Chat, Message, PromptPair, TextRows

_BATCH = 1000  # texts that are tokenised at once
Tokens = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class EncodedRow:
    """One row as tokens; `bytes_of(n)` is the number of UTF-8 bytes that the learnt ones among the first n spell."""

    tokens: Tokens
    learnt: Mask  # of each token, whether it has a loss; never the first
    bytes_of: Callable[[int], int]


def encode(tokenizer: Any, texts: Sequence[str], special: bool = False) -> list[Tokens]:
    """The tokens of each text; `special` adds those that the tokenizer puts around a text."""
    encoded: list[Tokens] = []
    for start in range(0, len(texts), _BATCH):
        chunk = list(texts[start : start + _BATCH])
        ids = tokenizer(chunk, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
        encoded += [np.asarray(tokens, dtype=np.int32) for tokens in ids]
    return encoded


def leading_tokens(tokenizer: Any) -> list[int]:
    """The tokens before a prompt: the start of text, if the tokenizer itself puts it there."""
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return list(first) if first == [tokenizer.bos_token_id] else []


def encode_pairs(rows: TextRows, tokenizer: Any, training: bool) -> list[EncodedRow]:
    """Prompt and completion as tokens; the completion is learnt, and in training the end of text after it.

    They are tokenised together if the result starts with the prompt's own tokens: that keeps the tokens of the whole
    text. Where a token would reach across the border, they are tokenised apart.
    """
    items = [item for item in rows.items if isinstance(item, PromptPair)]
    prompts = encode(tokenizer, [item.prompt for item in items])
    whole = encode(tokenizer, [item.prompt + item.completion for item in items])
    agree = [np.array_equal(both[: len(p)], p) for p, both in zip(prompts, whole, strict=True)]
    apart = iter(encode(tokenizer, [item.completion for item, same in zip(items, agree, strict=True) if not same]))
    leading, end = leading_tokens(tokenizer), [end_of_text(tokenizer)] if training else []
    start = start_of_text(tokenizer)
    encoded = []
    for item, prompt, both, same in zip(items, prompts, whole, agree, strict=True):
        prompt_tokens = np.concatenate([np.array(leading, dtype=np.int32), prompt])
        if not len(prompt_tokens):  # the first token of the completion is predicted from something
            prompt_tokens = np.array([start], dtype=np.int32)
        completion = both[len(prompt) :] if same else next(apart)
        tokens = np.concatenate([prompt_tokens, completion, np.array(end, dtype=np.int32)])
        bytes_of = partial(_completion_bytes, tokenizer, item, tokens, len(prompt_tokens))
        encoded.append(EncodedRow(tokens, np.arange(len(tokens)) >= len(prompt_tokens), bytes_of))
    return encoded


def _completion_bytes(tokenizer: Any, item: PromptPair, tokens: Tokens, prompt_length: int, count: int) -> int:
    """UTF-8 bytes that the completion's part of the first `count` tokens spells."""
    whole = len(item.completion.encode())
    if count >= len(tokens):
        return whole
    kept = tokenizer.decode(tokens[prompt_length:count].tolist(), clean_up_tokenization_spaces=False)
    return min(whole, len(kept.encode()))  # a character cut in half decodes to a longer replacement character


def render_chat(tokenizer: Any, messages: list[Message], add_generation_prompt: bool = False) -> str:
    """The messages in the tokenizer's chat template; with a generation prompt it is the assistant's turn to speak.

    Raises StockpotError, without naming the row, if there is no template or it fails.
    """
    if tokenizer.chat_template is None:
        raise StockpotError("the tokenizer has no chat template: give model.chat_template, or another format")
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except Exception as error:  # a template is a program: it may fail in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise StockpotError(
            f"the chat template fails: {reason}; fix the row, or give another model.chat_template"
        ) from error


def encode_chats(rows: TextRows, tokenizer: Any, training: bool) -> list[EncodedRow]:
    """Conversations in the tokenizer's own chat template; what the assistant says is learnt.

    A template may mark it with `{% generation %}`. Without the mark, it is what each turn of the assistant adds to the
    conversation before it. In training, special tokens among them, such as the end of a turn, are learnt too; in a test
    part they are left out, so that tokens and bytes are of the same text.
    """
    marked = re.search(r"\{%-?\s*generation\s*-?%\}", str(tokenizer.chat_template)) is not None
    special = np.array(
        sorted(n for n, token in tokenizer.added_tokens_decoder.items() if token.special), dtype=np.int32
    )
    encoded = []
    for index, item in enumerate(rows.items):
        assert isinstance(item, Chat)
        try:
            text = render_chat(tokenizer, item.messages)
            tokens, spans, learnt = (_encode_marked if marked else _encode_turns)(tokenizer, item, text)
        except StockpotError as error:
            raise rows.error(index, f"{error}.") from error
        if not training:
            learnt &= ~np.isin(tokens, special)
        if not learnt.any():
            raise rows.error(index, "the chat template leaves nothing that the assistant says; fix the row.")
        added = int(learnt[0])  # the first token cannot be predicted from nothing: a start of text goes before it
        bytes_of = partial(_span_bytes, text, spans, learnt, added)
        if added:
            tokens, learnt = np.insert(tokens, 0, start_of_text(tokenizer)), np.insert(learnt, 0, False)
        encoded.append(EncodedRow(tokens, learnt, bytes_of))
    return encoded


class _EncodedChat(NamedTuple):
    tokens: Tokens
    spans: NDArray[np.int64]  # (T, 2): the characters of the rendered text that each token covers
    learnt: Mask


def _encoded_chat(encoding: Any, learnt: Any) -> _EncodedChat:
    tokens = np.asarray(encoding["input_ids"], dtype=np.int32)
    spans = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return _EncodedChat(tokens, spans, np.array(learnt, dtype=bool))


def _encode_marked(tokenizer: Any, item: Chat, text: str) -> _EncodedChat:
    encoding = tokenizer.apply_chat_template(
        item.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
    )  # fmt: skip
    encoded = _encoded_chat(encoding, encoding["assistant_masks"])
    if item.prompt_length:
        prefix = _render_prefix(tokenizer, item.messages[: item.prompt_length], text, add_generation_prompt=True)
        return encoded._replace(learnt=encoded.learnt & (encoded.spans[:, 0] >= len(prefix)))
    return encoded


def _encode_turns(tokenizer: Any, item: Chat, text: str) -> _EncodedChat:
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens, spans, learnt = _encoded_chat(encoding, np.zeros(len(encoding["input_ids"])))
    starts, ends = spans[:, 0], np.maximum(spans[:, 1], spans[:, 0] + 1)  # an empty span covers its own place
    for number, message in enumerate(item.messages):
        if message["role"] == "assistant" and number >= item.prompt_length:
            before = item.messages[:number]
            start = len(_render_prefix(tokenizer, before, text, add_generation_prompt=True)) if number else 0
            end = len(_render_prefix(tokenizer, item.messages[: number + 1], text))
            learnt |= (ends > start) & (starts < end)
    return _EncodedChat(tokens, spans, learnt)


def _render_prefix(tokenizer: Any, messages: list[Message], text: str, add_generation_prompt: bool = False) -> str:
    """The first messages alone; raises StockpotError if the whole conversation, `text`, does not start with them."""
    prefix = render_chat(tokenizer, messages, add_generation_prompt)
    if not text.startswith(prefix):
        raise StockpotError(
            "the chat template writes the start of a conversation differently once it goes on, so what the assistant "
            "says cannot be found: give a model.chat_template with {% generation %} around it"
        )
    return prefix


def _span_bytes(text: str, spans: NDArray[np.int64], learnt: Mask, added: int, count: int) -> int:
    """UTF-8 bytes of `text` under the learnt ones of the first `count` tokens, `added` of which are not in the text.

    Several tokens may share one character, which counts once: characters are marked by a running sum of +1 where a
    span starts and −1 where it ends.
    """
    depth = np.zeros(len(text) + 1, dtype=np.int64)
    chosen = spans[: count - added][learnt[: count - added]]
    np.add.at(depth, chosen[:, 0], 1)
    np.add.at(depth, chosen[:, 1], -1)
    covered = (letter for letter, spans_over in zip(text, depth.cumsum(), strict=False) if spans_over > 0)
    return len("".join(covered).encode())
