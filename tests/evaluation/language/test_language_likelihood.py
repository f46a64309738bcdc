"""Losses of models whose probabilities are known, and what must not change them."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, log2
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scoring import measured
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from stockpot.batches.examples import IGNORED
from stockpot.batches.token_examples import TokenExamples
from stockpot.evaluation.language import likelihood
from stockpot.evaluation.language.likelihood import batches_of_similar_length, sequence_scores, token_scores
from stockpot.evaluation.scores.bits_per_byte import BitsPerByte
from stockpot.evaluation.scores.loss import Loss
from stockpot.evaluation.scores.perplexity import Perplexity
from stockpot.evaluation.scores.token_accuracy import TokenAccuracy
from stockpot.streams.text.part import TextPart


class Bigram(nn.Module):
    """p(next | token) is a row of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(table.double().log())
        self.config = SimpleNamespace(vocab_size=len(table))
        self.passes = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        self.passes += 1
        return SimpleNamespace(logits=self.logits[input_ids])


def sequences(*texts: Sequence[int], given: int = 1) -> TokenExamples:
    """The tokens after the first `given` are to be predicted."""
    inputs = [token for text in texts for token in text[:-1]]
    targets = [t if n + 1 >= given else IGNORED for text in texts for n, t in enumerate(text[1:])]
    ends = torch.tensor([len(text) - 1 for text in texts]).cumsum(0)
    return TokenExamples(torch.tensor(inputs).int(), ends, torch.tensor(targets).int())


def llama(vocabulary: int = 40) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).double()


def ragged(many: int = 13, vocabulary: int = 40) -> TokenExamples:
    draws = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 20, (many,), generator=draws).tolist()
    return sequences(*(torch.randint(0, vocabulary, (n,), generator=draws).tolist() for n in lengths), given=2)


def test_a_uniform_model_has_the_loss_of_its_vocabulary() -> None:
    V, text = 7, [0, 3, 2, 2, 6, 1]
    model = Bigram(torch.full((V, V), 1 / V))
    part = TextPart("a", sequences(text, text[:3]), bytes=11)
    values = measured([Loss(), Perplexity(), BitsPerByte(), TokenAccuracy()], model, None, part, 2)
    assert values["loss"] == pytest.approx(log(V), rel=1e-14)
    assert values["perplexity"] == pytest.approx(V, rel=1e-13)
    assert values["bits_per_byte"] == pytest.approx((5 + 2) * log2(V) / 11, rel=1e-14)
    assert model.passes == 1


def test_a_bigram_model_has_the_loss_and_the_hits_of_its_table() -> None:
    table = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])
    scores = sequence_scores(Bigram(table), sequences([0, 0, 1, 2], [2, 1, 0]), 4)
    assert scores.nats.tolist() == pytest.approx([-log(0.5 * 0.25 * 0.7), -log(0.6 * 0.1)], rel=1e-6)
    assert scores.tokens.tolist() == [3, 2]
    assert scores.hits.tolist() == [2, 1]


def test_what_is_given_is_not_scored() -> None:
    table = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    scores = token_scores(Bigram(table), sequences([0, 1, 1, 0], given=3), 1)
    assert (scores.tokens, scores.nats) == (1, pytest.approx(-log(0.25)))


def test_the_mean_is_over_tokens_not_over_sequences() -> None:
    table = torch.tensor([[0.5, 0.5], [0.125, 0.875]])
    part = TextPart("a", sequences([0, 0, 0, 0], [1, 0]), bytes=1)
    values = measured([Loss(), Perplexity()], Bigram(table), None, part, 1)
    assert values["loss"] == pytest.approx((3 * log(2) + log(8)) / 4)
    assert values["perplexity"] == pytest.approx(exp((3 * log(2) + log(8)) / 4))


def test_bits_per_byte_are_the_same_for_one_distribution_over_two_vocabularies() -> None:
    p = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    letters = Bigram(p.expand(4, 4))
    pairs = Bigram(torch.outer(p, p).flatten().expand(16, 16))
    text = [0, 3, 1, 2, 2, 0, 0, 1]
    in_pairs = [4 * a + b for a, b in zip(text[::2], text[1::2], strict=True)]
    of_letters = token_scores(letters, sequences([0, *text]), 1)
    of_pairs = token_scores(pairs, sequences([0, *in_pairs]), 1)
    assert of_letters.bits_per_byte(len(text)) == pytest.approx(of_pairs.bits_per_byte(len(text)), rel=1e-13)
    assert of_letters.loss != pytest.approx(of_pairs.loss)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 13, 100])
def test_batches_and_padding_change_nothing(batch_size: int) -> None:
    model, examples = llama(), ragged()
    alone = [token_scores(model, examples.picked([index]), 1) for index in range(len(examples))]
    scores = sequence_scores(model, examples, batch_size)
    assert scores.nats.tolist() == pytest.approx([scores_of_one.nats for scores_of_one in alone], rel=1e-12)
    assert scores.tokens.tolist() == [scores_of_one.tokens for scores_of_one in alone]
    assert scores.hits.tolist() == [scores_of_one.hits for scores_of_one in alone]


def test_the_loss_is_that_of_transformers_and_the_model_is_left_as_it_was() -> None:
    model, examples = llama(), ragged(1)
    model.model.layers[0].eval()
    batch = examples.__getitems__([0])
    logits = model(batch["input_ids"]).logits
    wanted = nn.functional.cross_entropy(logits[0], batch["labels"][0], ignore_index=IGNORED)
    assert token_scores(model, examples, 1).loss == pytest.approx(wanted.item(), rel=1e-12)
    assert model.training and not model.model.layers[0].training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_limits_on_logits_change_nothing_but_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = llama(), ragged()
    wanted = token_scores(model, examples, 13)
    monkeypatch.setattr(likelihood, "LOGITS_ON_CPU", 40 * 25)
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 40 * 3)
    sizes: list[int] = []
    hook = model.register_forward_hook(lambda _m, _i, output: sizes.append(output.logits.numel()))
    scores = token_scores(model, examples, 13)
    hook.remove()
    assert max(sizes) <= 40 * 25 and len(sizes) > 1
    assert (scores.nats, scores.tokens, scores.hits) == (
        pytest.approx(wanted.nats, rel=1e-12),
        wanted.tokens,
        wanted.hits,
    )


def test_batches_hold_every_sequence_once_and_respect_their_bounds() -> None:
    lengths = [5, 1, 9, 9, 2, 30, 4]
    batches = list(batches_of_similar_length(lengths, 3, 20))
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(len(b) == 1 or (len(b) <= 3 and len(b) * max(lengths[i] for i in b) <= 20) for b in batches)
