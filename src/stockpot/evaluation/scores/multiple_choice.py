"""Multiple choice: which of several completions a model finds likeliest after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from stockpot.batches.examples import IGNORED
from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError, did_you_mean
from stockpot.evaluation.language.generation import context_length, prompt_tokens
from stockpot.evaluation.language.likelihood import sequence_scores
from stockpot.evaluation.scores.base import Score, Subject, thinned
from stockpot.models.encoder_decoder import DECODER_START, is_encoder_decoder
from stockpot.models.tokenizer import padding
from stockpot.streams.text.answering import answered_examples, answers_of, prompt_tokens_with_ends, shortened
from stockpot.streams.text.encoding import encode

MOST_CHOICES = 100  # more distinct completions than this are not a multiple-choice question


class MultipleChoice(Score):
    """The fraction of prompts after which the right completion is the likeliest of the candidates."""

    name: Literal["multiple_choice"] = "multiple_choice"
    choices: list[str] | None = Field(
        None, description="the candidates; default: the distinct completions of the part", min_length=2
    )
    group: str | None = Field(None, description="column: the candidates are those of the rows with the same value")
    normalise: Literal["none", "bytes", "tokens"] = Field(
        "none", description="compare log-likelihoods as they are, or divided by each candidate's length"
    )
    limit: int | None = Field(None, ge=1, description="examples, evenly spaced over the part; null: all")

    @model_validator(mode="after")
    def _has_one_source(self) -> MultipleChoice:
        if self.choices is not None and self.group is not None:
            raise ValueError("`choices` are the same for all rows: give these, or `group`, not both")
        return self

    def measure(self, subject: Subject) -> float:
        """The fraction of prompts whose completion has the highest log-likelihood of its candidates; a tie is a miss.

        `normalise` divides each log-likelihood by its candidate's UTF-8 bytes, or its tokens.
        """
        part, offered = subject.text, self.candidates(subject)
        chosen = thinned(range(len(part.prompts)), self.limit)
        questions = [(part.prompts[index], candidate) for index in chosen for candidate in offered[index]]
        likelihoods = iter(log_likelihoods(subject.model, subject.tokenizer, questions, subject.batch_size))
        hits = 0
        for index in chosen:
            scores: dict[str, float] = {}
            for candidate in offered[index]:
                likelihood, tokens = next(likelihoods)
                lengths = {"none": 1, "bytes": max(1, len(candidate.encode())), "tokens": tokens}
                scores[candidate] = likelihood / lengths[self.normalise]
            right = scores.pop(part.completions[index])
            hits += right > max(scores.values())
        return hits / len(chosen)

    def candidates(self, subject: Subject) -> list[list[str]]:
        """The candidates of every prompt of the part, each list in order of first appearance.

        Raises Unsuited where there are fewer than two, or more than MOST_CHOICES, or no completion is among `choices`,
        and StockpotError where some completions are not.
        """
        part = self.prompted(subject)
        if self.choices is not None:
            offered = [list(dict.fromkeys(self.choices))] * len(part.prompts)
        else:
            offered = self._completions_of_the_same_group(subject)
        missing = [
            number
            for number, (choices, right) in enumerate(zip(offered, part.completions, strict=True))
            if right not in choices
        ]
        if missing:
            first = part.completions[missing[0]][:60]
            reason = f"the completion of test example {missing[0]}, {first!r}, is not in `choices`"
            if len(missing) == len(offered):
                raise self.unsuited(subject, reason)
            raise StockpotError(f"{self.title} on {part.task!r}: {reason}.")
        return offered

    def _completions_of_the_same_group(self, subject: Subject) -> list[list[str]]:
        part = subject.text
        keys = self._groups(subject)
        completions: dict[Any, dict[str, None]] = {}  # group → its distinct completions, in order
        for key, completion in zip(keys, part.completions, strict=True):
            completions.setdefault(key, {})[completion] = None
        for key, distinct in completions.items():
            if not 2 <= len(distinct) <= MOST_CHOICES:
                where = "" if self.group is None else f" where {self.group} is {key!r}"
                raise self.unsuited(
                    subject,
                    f"{len(distinct)} distinct completion{'s' * (len(distinct) != 1)}{where}, among the "
                    f"{len(part.prompts)} examples that evaluation.limit leaves, cannot be choices; raise the limit, "
                    "or give `choices`",
                )
        return [list(completions[key]) for key in keys]

    def _groups(self, subject: Subject) -> list[Any]:
        part = subject.text
        if self.group is None:
            return [None] * len(part.prompts)
        columns = list(part.rows[0]) if part.rows else []
        if self.group not in columns:
            hint = did_you_mean(self.group, columns)
            raise self.unsuited(subject, f"group: there is no column {self.group!r}.{hint} Columns: {columns}")
        return [row[self.group] for row in part.rows]


def prompt_and_candidate_tokens(tokenizer: Any, prompt: str, candidate: str) -> tuple[list[int], list[int]]:
    """The tokens of both: encoded together, as in training, if that starts with the prompt's own tokens; else apart."""
    prompt_ids = prompt_tokens(tokenizer, prompt)
    both = prompt_tokens(tokenizer, prompt + candidate)
    if len(both) > len(prompt_ids) and both[: len(prompt_ids)] == prompt_ids:
        return prompt_ids, both[len(prompt_ids) :]
    return prompt_ids, encode(tokenizer, [candidate])[0].tolist()


def log_likelihoods(
    model: nn.Module, tokenizer: Any, questions: Sequence[tuple[str, str]], batch_size: int
) -> list[tuple[float, int]]:
    """`Σ log p(token | prompt and the tokens before it)` over each candidate's tokens, and the number of these tokens.

    `questions` are (prompt, candidate). An end of text is not among the tokens. Sequences longer than the model's
    context lose their start. Raises StockpotError for a candidate without tokens, or one that fills the context.
    """
    limit = context_length(model)
    if is_encoder_decoder(getattr(model, "config", None)):
        return _answer_likelihoods(model, tokenizer, questions, batch_size, limit)
    inputs: list[int] = []
    targets: list[int] = []
    ends: list[int] = []
    for prompt, candidate in questions:
        prompt_ids, candidate_ids = prompt_and_candidate_tokens(tokenizer, prompt, candidate)
        if not candidate_ids or (limit is not None and len(candidate_ids) > limit):
            raise StockpotError(
                f"the candidate {candidate[:60]!r} has {len(candidate_ids)} tokens; it needs one, and at most {limit}."
            )
        sequence = [*prompt_ids, *candidate_ids]
        expected = [IGNORED] * (len(prompt_ids) - 1) + candidate_ids
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


def _answer_likelihoods(
    model: Any, tokenizer: Any, questions: Sequence[tuple[str, str]], batch_size: int, limit: int | None
) -> list[tuple[float, int]]:
    """The same where a decoder writes the candidate; an encoder reads the prompt, which loses its end if too long."""
    prompts = prompt_tokens_with_ends(tokenizer, [prompt for prompt, _ in questions])
    answers = answers_of(tokenizer, [candidate for _, candidate in questions], training=False)
    for (_, candidate), answer in zip(questions, answers, strict=True):
        if not answer.learnt.any() or (limit is not None and len(answer.tokens) > limit):
            raise StockpotError(
                f"the candidate {candidate[:60]!r} has {len(answer.tokens)} tokens; it needs one, and at most {limit}."
            )
    start = getattr(model.config, DECODER_START)
    shorter = [shortened(tokens, limit) for tokens in prompts]
    scores = sequence_scores(model, answered_examples(shorter, answers, start, padding(tokenizer)), batch_size)
    return list(zip((-scores.nats).tolist(), scores.tokens.tolist(), strict=True))
