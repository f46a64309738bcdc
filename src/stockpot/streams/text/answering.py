"""Prompts and completions as tokens for models that read with an encoder and write with a decoder, as T5 does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from stockpot.batches.answered_examples import AnsweredExamples
from stockpot.batches.examples import IGNORED
from stockpot.models.tokenizer import end_of_text, padding, start_of_text
from stockpot.streams.text.encoding import Tokens, encode
from stockpot.streams.text.rows import PromptPair, TextRows
from stockpot.streams.text.tokenised import Tokenised

LongPrompts = Literal["error", "drop", "cut"]
_BATCH = 1000  # texts that are tokenised at once


class AnswerTokens(NamedTuple):
    """The tokens of a completion, its end of text last, and which of them have a loss."""

    tokens: Tokens
    learnt: Any  # of bool


def tokenise_answers(
    rows: TextRows,
    tokenizer: Any,
    max_length: int,
    *,
    decoder_start: int,
    training: bool,
    long_prompts: LongPrompts = "error",
) -> Tokenised:
    """One example for each prompt with its completion.

    The special tokens are those that the tokenizer puts around a text. All tokens of the completion are learnt, and in
    training its end of text; in a test part special tokens are left out, so that tokens and bytes are of the same text.

    Args:
        rows: prompts with completions.
        tokenizer: a fast tokenizer of Transformers.
        max_length: the most tokens of a prompt, and of a completion, which loses its end beyond.
        decoder_start: the token that the decoder starts from.
        training: whether the part is trained on, and so learns where a text ends.
        long_prompts: whether a longer prompt is an error, left out, or loses its end.

    Raises:
        StockpotError: a prompt is too long for `error`, or all are for `drop`.
    """
    items = [item for item in rows.items if isinstance(item, PromptPair)]
    prompts = prompt_tokens_with_ends(tokenizer, [item.prompt for item in items])
    too_long = [index for index, tokens in enumerate(prompts) if len(tokens) > max_length]
    if too_long and (long_prompts == "error" or (long_prompts == "drop" and len(too_long) == len(items))):
        raise rows.error(
            too_long[0],
            f"the prompt has {len(prompts[too_long[0]])} tokens, and the model reads {max_length}; raise "
            "data.max_length, shorten the prompt, leave such rows out with data.long_prompts: drop, or their ends with "
            "data.long_prompts: cut.",
        )
    dropped = set(too_long) if long_prompts == "drop" else set()
    kept = [index for index in range(len(items)) if index not in dropped]
    answers = answers_of(tokenizer, [items[index].completion for index in kept], training)
    size = sum(
        _bytes_within(tokenizer, items[index].completion, answer, max_length)
        for index, answer in zip(kept, answers, strict=True)
    )
    examples = answered_examples(
        [shortened(prompts[index], max_length) for index in kept],
        [AnswerTokens(answer.tokens[:max_length], answer.learnt[:max_length]) for answer in answers],
        decoder_start,
        padding(tokenizer),
    )
    cut = sum(len(answer.tokens) > max_length for answer in answers) + (len(too_long) if long_prompts == "cut" else 0)
    return Tokenised(examples, size, cut, tuple(sorted(dropped)))


def prompt_tokens_with_ends(tokenizer: Any, prompts: Sequence[str]) -> list[Tokens]:
    """The tokens of prompts as an encoder reads them, at least one, with the special tokens around them."""
    start = np.array([start_of_text(tokenizer)], dtype=np.int32)
    return [tokens if len(tokens) else start for tokens in encode(tokenizer, prompts, special=True)]


def shortened(tokens: Tokens, most: int | None) -> Tokens:
    """At most so many tokens: the text loses its end, and keeps its last, special token."""
    return tokens if most is None or len(tokens) <= most else np.concatenate([tokens[: most - 1], tokens[-1:]])


def answered_examples(
    prompts: Sequence[Tokens], answers: Sequence[AnswerTokens], decoder_start: int, pad: int
) -> AnsweredExamples:
    """Prompts and answers as examples: the decoder is given the start token, then the answer without its last token."""
    given = [np.concatenate([[decoder_start], answer.tokens[:-1]]).astype(np.int32) for answer in answers]
    targets = [np.where(answer.learnt, answer.tokens, IGNORED).astype(np.int32) for answer in answers]
    return AnsweredExamples(
        torch.from_numpy(np.concatenate(prompts)),
        torch.tensor([len(tokens) for tokens in prompts]).cumsum(0),
        torch.from_numpy(np.concatenate(given)),
        torch.from_numpy(np.concatenate(targets)),
        torch.tensor([len(tokens) for tokens in targets]).cumsum(0),
        pad=pad,
    )


def answers_of(tokenizer: Any, completions: Sequence[str], training: bool) -> list[AnswerTokens]:
    """Completions as a decoder writes them; in a test part special tokens have no loss."""
    end = end_of_text(tokenizer)
    special = np.array(sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id}), dtype=np.int32)
    answers = []
    for start in range(0, len(completions), _BATCH):
        chunk = list(completions[start : start + _BATCH])
        for ids in tokenizer(text_target=chunk, return_attention_mask=False, verbose=False)["input_ids"]:
            tokens = np.array(ids if ids[-1:] == [end] else [*ids, end], dtype=np.int32)
            answers.append(AnswerTokens(tokens, np.ones(len(tokens), bool) if training else ~np.isin(tokens, special)))
    return answers


def _bytes_within(tokenizer: Any, completion: str, answer: AnswerTokens, most: int) -> int:
    """UTF-8 bytes of the completion that the first `most` tokens spell."""
    whole = len(completion.encode())
    if len(answer.tokens) <= most:
        return whole
    return min(whole, len(tokenizer.decode(answer.tokens[:most].tolist(), skip_special_tokens=True).encode()))
