"""Multiple choice: which of several completions a model finds likeliest after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stockpot.batches.examples import IGNORED
from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.language.answer import Unsuited, spaced
from stockpot.evaluation.language.generation import context, prompt_tokens
from stockpot.evaluation.language.likelihood import sequence_scores
from stockpot.evaluation.spec import MultipleChoice
from stockpot.models.tokenizer import padding
from stockpot.streams.text.encoding import encode
from stockpot.streams.text.part import TextPart

MOST_CHOICES = 100  # more distinct completions than these are no choice


def candidates(spec: MultipleChoice, part: TextPart) -> list[list[str]]:
    """The candidates of every prompt of the part, each list in order of first appearance.

    Raises Unsuited where there are fewer than two, or more than MOST, or no completion is among `choices`, and
    StockpotError where some completions are not.
    """
    if not part.prompts:
        raise _unsuited(spec, part, "plain text has no prompts to answer")
    if spec.choices is not None:
        found = [list(dict.fromkeys(spec.choices))] * len(part.prompts)
    else:
        keys = _groups(spec, part)
        of: dict[Any, dict[str, None]] = {}
        for key, completion in zip(keys, part.completions, strict=True):
            of.setdefault(key, {})[completion] = None
        lists = {key: list(answers) for key, answers in of.items()}
        for key, answers in lists.items():
            if not 2 <= len(answers) <= MOST_CHOICES:
                within = "" if spec.group is None else f" where {spec.group} is {key!r}"
                raise _unsuited(
                    spec,
                    part,
                    f"{len(answers)} distinct completion{'s' * (len(answers) != 1)}{within}, of {len(part.prompts)} "
                    "examples that evaluation.limit leaves, are no choice; raise it, or give `choices`",
                )
        found = [lists[key] for key in keys]
    missing = [
        n for n, (choices, right) in enumerate(zip(found, part.completions, strict=True)) if right not in choices
    ]
    if missing:
        first = part.completions[missing[0]][:60]
        reason = f"the completion of test example {missing[0]}, {first!r}, is not in `choices`"
        if len(missing) == len(found):
            raise _unsuited(spec, part, reason)
        raise StockpotError(f"{spec.title} on {part.task!r}: {reason}.")
    return found


def _unsuited(spec: MultipleChoice, part: TextPart, reason: str) -> Unsuited:
    return Unsuited(f"{spec.title} on {part.task!r}: {reason}.")


def _groups(spec: MultipleChoice, part: TextPart) -> list[Any]:
    if spec.group is None:
        return [None] * len(part.prompts)
    columns = list(part.rows[0]) if part.rows else []
    if spec.group not in columns:
        hint = did_you_mean(spec.group, columns)
        raise _unsuited(spec, part, f"group: there is no column {spec.group!r}.{hint} Columns: {columns}")
    return [row[spec.group] for row in part.rows]


def given_and_said(tokenizer: Any, prompt: str, candidate: str) -> tuple[list[int], list[int]]:
    """The tokens of both: together where the prompt's own tokens begin the result, as in training, else apart."""
    given = prompt_tokens(tokenizer, prompt)
    both = prompt_tokens(tokenizer, prompt + candidate)
    if len(both) > len(given) and both[: len(given)] == given:
        return given, both[len(given) :]
    return given, encode(tokenizer, [candidate])[0].tolist()


def log_likelihoods(
    model: nn.Module, tokenizer: Any, asked: Sequence[tuple[str, str]], batch_size: int
) -> list[tuple[float, int]]:
    """`Σ log p(token | prompt and what stands before it)` over each candidate's tokens, and how many they are.

    `asked` are (prompt, candidate). An end of text is not among the tokens. What is longer than the model's context
    loses its beginning. Raises StockpotError for a candidate without tokens, or one that fills the context.
    """
    limit = context(model)
    inputs: list[int] = []
    targets: list[int] = []
    ends: list[int] = []
    for prompt, candidate in asked:
        given, said = given_and_said(tokenizer, prompt, candidate)
        if not said or (limit is not None and len(said) > limit):
            raise StockpotError(
                f"the candidate {candidate[:60]!r} has {len(said)} tokens; it needs one, and at most {limit}."
            )
        sequence = [*given, *said]
        expected = [IGNORED] * (len(given) - 1) + said
        inputs += sequence[:-1][-limit:] if limit else sequence[:-1]
        targets += expected[-limit:] if limit else expected
        ends.append(len(inputs))
    examples = TokenExamples(
        torch.tensor(inputs, dtype=torch.int32),
        torch.tensor(ends),
        torch.tensor(targets, dtype=torch.int32),
        pad=padding(tokenizer),
    )
    scores = sequence_scores(model, examples, batch_size)
    return list(zip((-scores.nats).tolist(), scores.tokens.tolist(), strict=True))


def multiple_choice(spec: MultipleChoice, model: nn.Module, tokenizer: Any, part: TextPart, batch_size: int) -> float:
    """The fraction of prompts whose completion has the highest log-likelihood of its candidates; a tie is a miss.

    `normalise` divides each by its candidate's UTF-8 bytes, or its tokens.
    """
    offered = candidates(spec, part)
    chosen = spaced(range(len(part.prompts)), spec.limit)
    asked = [(part.prompts[index], candidate) for index in chosen for candidate in offered[index]]
    found = iter(zip(asked, log_likelihoods(model, tokenizer, asked, batch_size), strict=True))
    hits = 0
    for index in chosen:
        scores: dict[str, float] = {}
        for _ in offered[index]:
            (_, candidate), (likelihood, tokens) = next(found)
            lengths = {"none": 1, "bytes": max(1, len(candidate.encode())), "tokens": tokens}
            scores[candidate] = likelihood / lengths[spec.normalise]
        right = scores.pop(part.completions[index])
        hits += right > max(scores.values())
    return hits / len(chosen)
