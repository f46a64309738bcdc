"""Strings → token sequences, with the token to predict at each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockpot.batches.answered_examples import AnsweredExamples
from stockpot.batches.examples import IGNORED
from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError
from stockpot.models.tokenizer import end_of_text, padding, start_of_text
from stockpot.streams.text.encoding import (
    EncodedRow,
    Tokens,
    encode,
    encode_chats,
    encode_pairs,
    leading_tokens,
    render_chat,
)
from stockpot.streams.text.packing import packed
from stockpot.streams.text.part import TextPart
from stockpot.streams.text.rows import Chat, PromptPair, TextRows
from stockpot.streams.text.tokenised import Tokenised

DEFAULT_MAX_LENGTH = 1024  # tokens in a sequence, unless max_length says otherwise


def sequence_length(wanted: int | None, config: Any, where: str) -> int:
    """Tokens in a sequence: `wanted`, or what the model takes, at most DEFAULT_MAX_LENGTH.

    Raises StockpotError if the model takes fewer than `wanted`.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    context = getattr(text, "max_position_embeddings", None)
    if wanted is None:
        return min(int(context or DEFAULT_MAX_LENGTH), DEFAULT_MAX_LENGTH)
    if context is not None and wanted > context:
        raise StockpotError(
            f"{where}: data.max_length: {wanted} tokens are more than the {context} that the model takes; "
            f"give {context} or fewer."
        )
    return wanted


def tokenise(
    rows: TextRows, tokenizer: Any, max_length: int, *, packing: bool | None, training: bool, drop: bool = False
) -> Tokenised:
    """The sequences of one part, with the next token as target.

    Texts in training are joined, with an end of text after each, and cut into blocks, unless `packing` is false.
    Otherwise each text stands alone, and every token of it is predicted once: the first one from the start of text.
    Prompts with completions and chats: see `encode_pairs` and `encode_chats`; long ones lose their end, and with
    `packing` short ones share a sequence in training.

    Args:
        rows: the texts, prompts with completions, or chats.
        tokenizer: a fast tokenizer of Transformers.
        max_length: the most tokens that a sequence gives to the model.
        packing: whether several texts share a sequence in training; None is the default of the format.
        training: whether the part is trained on, and so learns where a text ends.
        drop: leave out rows whose prompt leaves no room for the completion.

    Raises:
        StockpotError: a prompt is too long and `drop` is false, or every row would be left out.
    """
    first = rows.items[0]
    if isinstance(first, str):
        return _tokenise_texts(rows, tokenizer, max_length, packing is not False and training, training)
    encoded = (encode_pairs if isinstance(first, PromptPair) else encode_chats)(rows, tokenizer, training)
    tokenised = _cut_rows(rows, encoded, max_length, padding(tokenizer), drop)
    if packing and training:
        assert isinstance(tokenised.examples, TokenExamples), "answers of a decoder are tokenised elsewhere"
        return replace(tokenised, examples=packed(tokenised.examples, max_length))
    return tokenised


def _tokenise_texts(rows: TextRows, tokenizer: Any, max_length: int, packing: bool, training: bool) -> Tokenised:
    """Plain texts. A line is `start, tokens…, end`; its inputs are all but the last, its targets all but the first."""
    texts = [str(item) for item in rows.items]
    start, end = start_of_text(tokenizer), end_of_text(tokenizer)
    lines = [
        np.concatenate([[start], tokens, [end] if training else []]).astype(np.int32)
        for tokens in encode(tokenizer, texts)
    ]
    if packing:
        if start == end:  # one token ends a text and starts the next: it must not appear twice
            joined = [line[:-1] for line in lines]
            lines = [np.concatenate([*joined, lines[-1][-1:]])]
        else:
            joined = lines
            lines = [np.concatenate(joined)]
    inputs = np.concatenate([line[:-1] for line in lines])
    targets = np.concatenate([line[1:] for line in lines])
    if packing and start != end:  # at an end of text, the target would be the start of an unrelated text
        starts = np.cumsum([len(line) for line in joined])[:-1] - 1
        targets[starts] = IGNORED
    ends = _ends_of_pieces(np.array([len(line) - 1 for line in lines]), max_length)
    size = sum(len(text.encode()) for text in texts)
    return Tokenised(_token_examples(inputs, targets, ends, padding(tokenizer)), size)


def _ends_of_pieces(lengths: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Where the pieces end when sequences of these lengths, laid end to end, are each cut after every `longest`."""
    starts = np.cumsum(lengths) - lengths
    ends = [
        np.append(np.arange(start + longest, start + length, longest), start + length)
        for start, length in zip(starts, lengths, strict=True)
        if length
    ]
    return np.concatenate(ends) if ends else np.zeros(0, dtype=np.int64)


def _token_examples(inputs: Tokens, targets: Tokens, ends: NDArray[np.int64], pad: int) -> TokenExamples:
    return TokenExamples(
        torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(ends.astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(targets)), pad=pad,
    )  # fmt: skip


def _cut_rows(rows: TextRows, encoded: Sequence[EncodedRow], max_length: int, pad: int, drop: bool) -> Tokenised:
    """Each row as one sequence: of at most `max_length` + 1 tokens, the first `max_length` are inputs."""
    prompt_lengths = [int(row.learnt.argmax()) for row in encoded]
    too_long = [index for index, length in enumerate(prompt_lengths) if length > max_length]
    if too_long and (not drop or len(too_long) == len(encoded)):
        more = f" ({len(too_long)} such rows)" if len(too_long) > 1 else ""
        raise rows.error(
            too_long[0],
            f"the prompt has {prompt_lengths[too_long[0]]} tokens, and a sequence takes {max_length}, so nothing of "
            f"the completion can be learnt{more}; raise data.max_length, shorten the prompt, or leave such rows out "
            "with data.long_prompts: drop.",
        )
    kept_rows = [row for row, length in zip(encoded, prompt_lengths, strict=True) if length <= max_length]
    inputs, targets, size = [], [], 0
    for row in kept_rows:
        count = min(len(row.tokens), max_length + 1)
        inputs.append(row.tokens[: count - 1])
        targets.append(np.where(row.learnt[1:count], row.tokens[1:count], IGNORED).astype(np.int32))
        size += row.bytes_of(count)
    cut = sum(len(row.tokens) > max_length + 1 for row in kept_rows)
    ends = np.cumsum([len(sequence) for sequence in inputs])
    examples = _token_examples(np.concatenate(inputs), np.concatenate(targets), ends, pad)
    return Tokenised(examples, size, cut, tuple(too_long))


def text_part(task: str, rows: TextRows, tokenised: Tokenised, tokenizer: Any) -> TextPart:
    """The sequences of a test part, with the strings that scores need.

    Prompts contain their special tokens, so they are tokenised again without adding any; those of an encoder do not. In
    a chat, the last thing that the assistant says is the completion, and everything before it the prompt.
    """
    prompts, completions = [], []
    if tokenised.dropped:
        rows = rows.picked(sorted({*range(len(rows.items))} - {*tokenised.dropped}))
    if isinstance(tokenised.examples, AnsweredExamples):
        pairs = [item for item in rows.items if isinstance(item, PromptPair)]
        prompts, completions = [item.prompt for item in pairs], [item.completion for item in pairs]
        return TextPart(task, tokenised.examples, tokenised.bytes, prompts, completions, rows.rows)
    leading = tokenizer.decode(leading_tokens(tokenizer))
    for index, item in enumerate(rows.items):
        if isinstance(item, PromptPair):
            prompts.append(leading + item.prompt or tokenizer.decode([start_of_text(tokenizer)]))
            completions.append(item.completion)
        elif isinstance(item, Chat):
            last = max(n for n, message in enumerate(item.messages) if message["role"] == "assistant")
            try:
                prompts.append(render_chat(tokenizer, item.messages[:last], add_generation_prompt=True))
            except StockpotError as error:
                raise rows.error(index, f"{error}.") from error
            completions.append(str(item.messages[last]["content"]))
    return TextPart(task, tokenised.examples, tokenised.bytes, prompts, completions, rows.rows)


def classification_tokens(
    texts: Sequence[str], labels: Sequence[int] | Tensor, tokenizer: Any, max_length: int
) -> TokenExamples:
    """Texts for a classifier, with the special tokens that the tokenizer adds; long texts lose their end.

    `labels` are those of `Examples`. Raises StockpotError for a text without tokens.
    """
    sequences: list[Tokens] = []
    for start in range(0, len(texts), 1000):
        chunk = list(texts[start : start + 1000])
        ids = tokenizer(chunk, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
        sequences += [np.asarray(tokens, dtype=np.int32) for tokens in ids]
    for index, tokens in enumerate(sequences):
        if not len(tokens):
            raise StockpotError(f"text {index} has no tokens: an empty text cannot be classified; leave it out.")
    return TokenExamples(
        torch.from_numpy(np.concatenate(sequences)),
        torch.from_numpy(np.cumsum([len(tokens) for tokens in sequences])),
        rows=torch.as_tensor(labels),
        pad=padding(tokenizer),
    )
