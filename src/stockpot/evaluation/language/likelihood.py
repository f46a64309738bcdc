"""How likely a language model finds texts: one forward pass over the right tokens, without generating any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.batches.examples import IGNORED
from stockpot.batches.outputs import evaluation_mode, logits_of, moved_to
from stockpot.streams.text.tokenised import LanguageExamples

LOGITS = 2**27  # the most in one batch on an accelerator: 512 MiB in float32
LOGITS_ON_CPU = 2**22  # on a CPU: the system hands out larger blocks page by page, at 2.7 times the processor time
LOGITS_AT_ONCE = 2**24  # the most that are converted to higher precision at a time


@dataclass(frozen=True)
class TokenScores:
    """Sums over the predicted tokens: `nats` is −Σ log p, `hits` counts those that had the highest logit."""

    nats: float
    tokens: int
    hits: int

    @property
    def loss(self) -> float | None:
        """Nats per token; None where nothing is predicted."""
        return self.nats / self.tokens if self.tokens else None

    @property
    def token_accuracy(self) -> float | None:
        """The fraction of tokens that had the highest logit; None where nothing is predicted."""
        return self.hits / self.tokens if self.tokens else None

    def bits_per_byte(self, count: int) -> float | None:
        """`nats / (ln 2 · count)`, for `count` bytes; None for none."""
        return self.nats / (log(2) * count) if count else None


@dataclass(frozen=True)
class SequenceScores:
    """The same for each of N sequences, on the CPU."""

    nats: Tensor  # (N,) float64
    tokens: Tensor  # (N,) int64
    hits: Tensor  # (N,) int64


def text_configuration(model: nn.Module) -> Any:
    """The configuration of the part of a Transformers model that reads text; None for a plain module."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if callable(getattr(config, "get_text_config", None)) else config


def token_scores(model: nn.Module, examples: LanguageExamples, batch_size: int) -> TokenScores:
    """The sums over all tokens that have a target, in float64: batch size and padding do not change them."""
    scores = sequence_scores(model, examples, batch_size)
    return TokenScores(float(scores.nats.sum()), int(scores.tokens.sum()), int(scores.hits.sum()))


@torch.no_grad()
def sequence_scores(model: nn.Module, examples: LanguageExamples, batch_size: int) -> SequenceScores:
    """For each sequence −Σ log p, the number of predicted tokens, and how many of them had the highest logit.

    Sequences of similar length share a batch, which holds fewer than `batch_size` where its logits would exceed
    `LOGITS`, or `LOGITS_ON_CPU`. Every module's mode is restored.
    """
    N = len(examples)
    nats, tokens, hits = torch.zeros(N, dtype=torch.float64), torch.zeros(N).long(), torch.zeros(N).long()
    lengths = examples.lengths.tolist()
    vocabulary = getattr(text_configuration(model), "vocab_size", 1)
    most = LOGITS if any(tensor.device.type != "cpu" for tensor in model.parameters()) else LOGITS_ON_CPU
    with evaluation_mode(model):
        for picked in batches_of_similar_length(lengths, batch_size, most // vocabulary):
            batch = moved_to(model, examples.__getitems__(picked))
            targets = batch["labels"]
            owners = torch.arange(len(picked), device=targets.device)[:, None].expand_as(targets).flatten()
            kept = targets.flatten() != IGNORED
            owners, losses, right = owners[kept], *_target_losses(logits_of(model, batch), targets.flatten(), kept)
            sums = torch.zeros(len(picked), dtype=torch.float64)
            nats[picked] = sums.index_add_(0, owners.cpu(), losses.cpu())
            tokens[picked] = owners.bincount(minlength=len(picked)).cpu()
            hits[picked] = owners[right].bincount(minlength=len(picked)).cpu()
    return SequenceScores(nats, tokens, hits)


def _target_losses(logits: Tensor, targets: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """−log p of each target that is kept, in float64, and whether it had the highest logit."""
    where = kept.nonzero().flatten()
    rows = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    nats, right = [logits.new_zeros(0, dtype=torch.float64)], [kept.new_zeros(0)]
    for rows_of_chunk in where.split(rows):
        scores = logits[rows_of_chunk]
        scores = scores if scores.dtype == torch.float64 else scores.float()
        wanted = targets[rows_of_chunk]
        nats.append((scores.logsumexp(-1) - scores.gather(-1, wanted[:, None])[:, 0]).double())
        right.append(scores.argmax(-1) == wanted)
    return torch.cat(nats), torch.cat(right)


def batches_of_similar_length(lengths: Sequence[int], batch_size: int, positions: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first; padded, at most `positions` tokens unless alone."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[batch[0]] > positions):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
