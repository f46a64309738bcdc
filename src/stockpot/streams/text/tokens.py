"""Strings → token sequences, and what a model is to learn at each position of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stockpot.batches.examples import IGNORED
from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError
from stockpot.models.tokenizer import end_of_text, padding, start_of_text
from stockpot.streams.text.encoding import Said, Tokens, encode, encode_chats, encode_pairs, leading_tokens, render_chat
from stockpot.streams.text.packing import packed
from stockpot.streams.text.part import TextPart
from stockpot.streams.text.rows import Chat, PromptPair, TextRows

LONGEST = 1024  # tokens in a sequence, unless max_length says otherwise


@dataclass(frozen=True)
class Tokenised:
    """Sequences, the UTF-8 bytes of what is predicted in them, how many were longer than `max_length`, and `dropped`.

    These are the indices of the rows that were left out, since their prompts alone were as long.
    """

    examples: TokenExamples
    bytes: int
    cut: int = 0
    dropped: tuple[int, ...] = ()


def sequence_length(wanted: int | None, config: Any, where: str) -> int:
    """Tokens in a sequence: `wanted`, or what the model takes, at most LONGEST.

    Raises StockpotError where the model takes fewer than `wanted`.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    context = getattr(text, "max_position_embeddings", None)
    if wanted is None:
        return min(int(context or LONGEST), LONGEST)
    if context is not None and wanted > context:
        raise StockpotError(
            f"{where}: data.max_length: {wanted} tokens are more than the {context} that the model takes; "
            f"give {context} or fewer."
        )
    return wanted


def tokenise(
    rows: TextRows, tokenizer: Any, max_length: int, *, packing: bool | None, training: bool, drop: bool = False
) -> Tokenised:
    """The sequences of one part, at most `max_length` inputs long, with the next token as target.

    Texts in training: end of text after each, all in one line, cut in blocks, unless `packing` is false. Otherwise
    each text stands alone, and every token of it is predicted once, the first one from the start of text. Prompts with
    completions and chats: see `encode_pairs` and `encode_chats`; longer ones lose their end, and with `packing` short
    ones share a sequence in training. A row of which nothing can be learnt within `max_length` is left out with `drop`;
    without it, and where no row is left, StockpotError is raised.
    """
    first = rows.items[0]
    if isinstance(first, str):
        return _texts(rows, tokenizer, max_length, packing is not False and training, training)
    said = (encode_pairs if isinstance(first, PromptPair) else encode_chats)(rows, tokenizer, training)
    out = _assembled(rows, said, max_length, padding(tokenizer), drop)
    if packing and training:
        return replace(out, examples=packed(out.examples, max_length))
    return out


def _texts(rows: TextRows, tokenizer: Any, max_length: int, packing: bool, training: bool) -> Tokenised:
    texts = [str(item) for item in rows.items]
    start, end = start_of_text(tokenizer), end_of_text(tokenizer)
    lines = []
    for tokens in encode(tokenizer, texts):
        line = np.concatenate([[start], tokens, [end] if training else []]).astype(np.int32)
        lines.append(line)
    if packing:  # where end of text also starts one, it does both at once
        joined = [line[:-1] if start == end else line for line in lines]
        stream = np.concatenate([*joined, lines[-1][-1:]] if start == end else joined)
        lines = [stream]
    inputs = np.concatenate([line[:-1] for line in lines])
    targets = np.concatenate([line[1:] for line in lines])
    if packing and start != end:  # that a text begins after an end is not learnt
        starts = np.cumsum([len(line) for line in joined])[:-1] - 1
        targets[starts] = IGNORED
    ends = _pieces(np.array([len(line) - 1 for line in lines]), max_length)
    return Tokenised(_examples(inputs, targets, ends, padding(tokenizer)), sum(len(text.encode()) for text in texts))


def _pieces(lengths: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Where the pieces end when sequences of these lengths, laid end to end, are each cut after every `longest`."""
    starts = np.cumsum(lengths) - lengths
    cuts = [
        np.append(np.arange(start + longest, start + length, longest), start + length)
        for start, length in zip(starts, lengths, strict=True)
        if length
    ]
    return np.concatenate(cuts) if cuts else np.zeros(0, dtype=np.int64)


def _examples(inputs: Tokens, targets: Tokens, ends: NDArray[np.int64], pad: int) -> TokenExamples:
    return TokenExamples(
        torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(ends.astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(targets)), pad=pad,
    )  # fmt: skip


def _assembled(rows: TextRows, said: Sequence[Said], max_length: int, pad: int, drop: bool) -> Tokenised:
    firsts = [int(one.learnt.argmax()) for one in said]
    bad = [index for index, first in enumerate(firsts) if first > max_length]
    if bad and (not drop or len(bad) == len(said)):
        more = f" ({len(bad)} rows are so long)" if len(bad) > 1 else ""
        raise rows.error(
            bad[0],
            f"the prompt has {firsts[bad[0]]} tokens, and a sequence takes {max_length}, so nothing of the completion "
            f"can be learnt{more}; raise data.max_length, shorten the prompt, or leave such rows out with "
            "data.long_prompts: drop.",
        )
    said = [one for one, first in zip(said, firsts, strict=True) if first <= max_length]
    inputs, targets, total = [], [], 0
    for one in said:
        kept = min(len(one.tokens), max_length + 1)
        inputs.append(one.tokens[: kept - 1])
        targets.append(np.where(one.learnt[1:kept], one.tokens[1:kept], IGNORED).astype(np.int32))
        total += one.spelled(kept)
    cut = sum(len(one.tokens) > max_length + 1 for one in said)
    ends = np.cumsum([len(each) for each in inputs])
    return Tokenised(_examples(np.concatenate(inputs), np.concatenate(targets), ends, pad), total, cut, tuple(bad))


def text_part(task: str, rows: TextRows, made: Tokenised, tokenizer: Any) -> TextPart:
    """The sequences with what they spell; a prompt holds its special tokens, so it is tokenised without adding any.

    Of a chat the last thing that the assistant says is the completion, and all before it the prompt.
    """
    prompts, completions = [], []
    if made.dropped:
        rows = rows.picked(sorted({*range(len(rows.items))} - {*made.dropped}))
    before = tokenizer.decode(leading_tokens(tokenizer))
    for index, item in enumerate(rows.items):
        if isinstance(item, PromptPair):
            prompts.append(before + item.prompt or tokenizer.decode([start_of_text(tokenizer)]))
            completions.append(item.completion)
        elif isinstance(item, Chat):
            last = max(n for n, message in enumerate(item.messages) if message["role"] == "assistant")
            try:
                prompts.append(render_chat(tokenizer, item.messages[:last], asked=True))
            except StockpotError as error:
                raise rows.error(index, f"{error}.") from error
            completions.append(str(item.messages[last]["content"]))
    return TextPart(task, made.examples, made.bytes, prompts, completions, rows.rows)


def classification_tokens(
    texts: Sequence[str], outputs: Sequence[int], tokenizer: Any, max_length: int
) -> TokenExamples:
    """Texts for a classifier, with the special tokens that the tokenizer adds, the ends of long ones cut off.

    `outputs` is the output row of each text.
    """
    read: list[Tokens] = []
    for start in range(0, len(texts), 1000):
        some = list(texts[start : start + 1000])
        encoded = tokenizer(some, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
        read += [np.asarray(tokens, dtype=np.int32) for tokens in encoded]
    for index, tokens in enumerate(read):
        if not len(tokens):
            raise StockpotError(f"text {index} has no tokens: an empty text cannot be classified; leave it out.")
    return TokenExamples(
        torch.from_numpy(np.concatenate(read)),
        torch.from_numpy(np.cumsum([len(tokens) for tokens in read])),
        rows=torch.tensor(list(outputs), dtype=torch.int64),
        pad=padding(tokenizer),
    )
