"""Fishers and sensitivities of a causal language model: an example is a sequence, in float64 and one at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from brute import Weights
from torch import Tensor, nn

from stockpot.batches.examples import IGNORED
from stockpot.batches.outputs import logits_of
from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError
from stockpot.importance import per_example
from stockpot.importance.fisher import convention, fisher
from stockpot.importance.sensitivity import sensitivity

WORDS = 11


def llama(**keys: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "vocab_size": WORDS, "initializer_range": 0.3}
    return settled(LlamaForCausalLM(LlamaConfig(**sizes, **keys)))


def gemma() -> nn.Module:
    from transformers import GemmaConfig, GemmaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "head_dim": 4}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": WORDS, "initializer_range": 0.3}
    return settled(GemmaForCausalLM(GemmaConfig(**sizes)))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 12, "vocab_size": WORDS}
    return settled(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, initializer_range=0.3)))


def settled(model: nn.Module) -> nn.Module:
    """In float64; norms and biases are not those of a new model."""
    model = model.double().eval()
    for tensor in model.parameters():
        if tensor.ndim == 1:
            tensor.data += 0.3 * torch.randn_like(tensor)
    return model


# Name → model, and how exact it is: the norms and rotations of Llama and Gemma are computed in fp32.
MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "llama, tied": (lambda: llama(tie_word_embeddings=True), 1e-5),
    "llama, untied": (lambda: llama(tie_word_embeddings=False, pad_token_id=0), 1e-5),
    "gemma": (gemma, 1e-5),
    "gpt2": (gpt2, 1e-10),
}


def sequences(packed: bool = False, many: int = 7) -> TokenExamples:
    """Of 2 to 8 tokens, some of them not to be learnt; with `packed`, each of two texts."""
    draws = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 9, (many,), generator=draws)
    total = int(lengths.sum())
    tokens, targets = (torch.randint(WORDS, (total,), generator=draws).int() for _ in range(2))
    targets[torch.rand(total, generator=draws) < 0.3] = IGNORED
    halves = [[*range(length // 2), *range(length - length // 2)] for length in lengths.tolist()]
    positions = torch.tensor([place for half in halves for place in half]).int() if packed else None
    return TokenExamples(tokens, lengths.cumsum(0), targets, positions=positions)


def alone(model: nn.Module, examples: TokenExamples) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each sequence by itself, without padding: the logits (n, rows) and targets where something is learnt."""
    for index in range(len(examples)):
        batch = examples.__getitems__([index])
        targets = batch["labels"][0]
        yield logits_of(model, batch)[targets != IGNORED], targets[targets != IGNORED]


def summed(model: nn.Module, values: list[Tensor], power: int, weights: list[float] | None = None) -> Weights:
    """Σ weight·|∂ value / ∂θ|^power by name."""
    named = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    total = {name: torch.zeros_like(tensor) for name, tensor in named.items()}
    for value, weight in zip(values, weights or [1.0] * len(values), strict=True):
        found = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
        for into, gradient in zip(total.values(), found, strict=True):
            if gradient is not None:
                into.add_(gradient.abs() ** power, alpha=weight)
    return total


def assert_close(found: Weights, expected: Weights, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=tolerance, atol=tolerance * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.log_softmax(1).gather(1, targets[:, None]).sum()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_sequence_counts_as_it_does_alone_whatever_it_is_padded_with(name: str, packed: bool) -> None:
    torch.manual_seed(3)
    (build, tolerance), examples = MODELS[name], sequences(packed)
    model = build()
    empirical = summed(model, [likelihood(*one) for one in alone(model, examples)], 2, [1 / 7] * 7)
    outward = summed(model, [one[0].square().sum() for one in alone(model, examples)], 1, [1 / 7] * 7)
    for batch_size in (2, 7):
        found = fisher(model, examples, "empirical", logits=logits_of, batch_size=batch_size)
        assert_close(found, empirical, tolerance)
        assert_close(sensitivity(model, examples, logits=logits_of, batch_size=batch_size), outward, tolerance)
    assert_close(fisher(model, examples, "batched", logits=logits_of, batch_size=1), empirical, tolerance)
    assert min(float(tensor.max()) for key, tensor in empirical.items() if "k_proj.bias" not in key) > 0


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_of_a_language_model_takes_a_slow_way(name: str, packed: bool) -> None:
    torch.manual_seed(3)
    model = MODELS[name][0]()
    walk = per_example._Walk(model, logits_of, 2)
    walk.choose(sequences(packed).__getitems__([0, 3, 6]))
    scaled = {"model.embed_tokens.weight"} if name == "gemma" else set()  # a subclass: one example at a time
    assert walk.layered == {key for key, _ in model.named_parameters()} - scaled


def test_drawn_tokens_estimate_the_exact_fisher_of_a_sequence_without_bias() -> None:
    """Exact: `Σ_t Σ_c p_tc (∂ log p_tc / ∂θ)²`, since tokens drawn at different places are independent."""
    torch.manual_seed(3)
    model = gpt2()
    one = sequences().picked([2])
    ((logits, _),) = alone(model, one)
    log_p = logits.log_softmax(1)
    p = log_p.detach().exp().flatten().tolist()
    exact = summed(model, list(log_p.flatten()), 2, p)
    many, rounds = 250, 8
    repeated = one.picked([0] * many)
    draws = torch.Generator().manual_seed(5)
    for key in ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", "transformer.ln_f.weight"):
        model.requires_grad_(False)
        dict(model.named_parameters())[key].requires_grad_(True)
        found = torch.stack(
            [fisher(model, repeated, "sample", logits=logits_of, draws=draws)[key].sum() for _ in range(rounds)]
        )
        error = float(found.std()) / rounds**0.5
        assert error < 0.05 * float(exact[key].sum())
        assert abs(float(found.mean() - exact[key].sum())) < 5 * error


def test_labels_of_padding_and_prompts_are_never_drawn_for() -> None:
    torch.manual_seed(3)
    model, examples = gpt2(), sequences()
    nothing = TokenExamples(examples.tokens, examples.ends, torch.full_like(examples.tokens, IGNORED))
    for kind in ("sample", "empirical"):
        found = fisher(model, nothing, kind, logits=logits_of, draws=torch.Generator())
        assert not any(bool(tensor.any()) for tensor in found.values())
    assert not any(bool(tensor.any()) for tensor in sensitivity(model, nothing, logits=logits_of).values())


def test_a_part_of_the_sequences_is_the_fisher_of_that_part() -> None:
    torch.manual_seed(3)
    model, examples, told = gpt2(), sequences(), list[int]()
    draws = torch.Generator().manual_seed(2)
    picked = torch.randperm(7, generator=torch.Generator().manual_seed(2))[:4].sort().values.tolist()
    keys: dict[str, Any] = {"samples": 4, "draws": draws, "batch_size": 3, "on_progress": told.append}
    found = fisher(model, examples, "empirical", logits=logits_of, **keys)
    assert_close(found, fisher(model, examples.picked(picked), "empirical", logits=logits_of), 1e-12)
    assert told == [3, 4]


def test_logits_that_would_fill_the_memory_come_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    model, examples, told = gpt2(), sequences(), list[int]()
    whole = fisher(model, examples, "empirical", logits=logits_of)
    monkeypatch.setattr(per_example, "_LOGITS", 2 * 8 * WORDS)  # of two sequences
    assert_close(fisher(model, examples, "empirical", logits=logits_of, on_progress=told.append), whole, 1e-12)
    assert told[0] in (2, 3)
    assert told[-1] == 7


def test_a_model_stays_as_it_is_and_the_exact_fisher_is_refused_in_one_line() -> None:
    torch.manual_seed(3)
    model, examples = llama(), sequences()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StockpotError, match="would take a backward pass for every token at every position; choose"):
        fisher(model, examples, "exact", logits=logits_of)
    fisher(model, examples, "empirical", logits=logits_of)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert convention("sample", 7, 64, language=True)["squares"] == "per sequence"
