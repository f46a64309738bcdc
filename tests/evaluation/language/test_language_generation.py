"""What is written is what argmax or softmax says, and evaluation leaves no trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from stockpot.errors import StockpotError
from stockpot.evaluation.language.generation import continuations, prompt_tokens
from stockpot.models.tokenizer import train_tokenizer

PROMPTS = ["the cat", "a", "the dog sat on the mat", "", "mat"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["the cat sat on the mat", "a dog sat on the cat"] * 20, 300)


@pytest.fixture
def model(tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=48, bos_token_id=0, eos_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).double()


def greedy(
    model: nn.Module, tokenizer: Any, prompts: list[str], max_new_tokens: int = 60, batch_size: int = 8
) -> list[str]:
    written = continuations(model, tokenizer, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens)
    return [texts[0] for texts in written]


def by_hand(model: LlamaForCausalLM, tokenizer: Any, prompt: str, many: int) -> str:
    model.eval()
    tokens = prompt_tokens(tokenizer, prompt)
    start = len(tokens)
    for _ in range(many):
        best = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        tokens = [*tokens, best]
    return str(tokenizer.decode(tokens[start:], skip_special_tokens=True))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_greedy_writing_takes_the_likeliest_token_each_time_in_any_batch(
    model: LlamaForCausalLM, tokenizer: Any, batch_size: int
) -> None:
    written = greedy(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=batch_size)
    assert written == [by_hand(model, tokenizer, prompt, 8) for prompt in PROMPTS]
    assert len(set(written)) > 1


def test_penalties_of_the_generation_configuration_do_not_count(model: LlamaForCausalLM, tokenizer: Any) -> None:
    wanted = greedy(model, tokenizer, PROMPTS, max_new_tokens=12)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.temperature = 3.0
    model.generation_config.no_repeat_ngram_size = 1
    tokens = prompt_tokens(tokenizer, "the cat")
    likeliest = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
    model.generation_config.suppress_tokens = [likeliest]
    assert int(model.generate(torch.tensor([tokens]), max_new_tokens=1, do_sample=False)[0, -1]) != likeliest
    assert greedy(model, tokenizer, PROMPTS, max_new_tokens=12) == wanted


def test_an_adapter_writes_like_the_model_that_it_makes(model: LlamaForCausalLM, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    before = [dict(vars(module)) for module in adapted.modules()]
    written = greedy(adapted, tokenizer, PROMPTS, max_new_tokens=8)
    for module, attributes in zip(adapted.modules(), before, strict=True):
        assert vars(module).get("generation_config") is attributes.get("generation_config")
    assert greedy(adapted.merge_and_unload(), tokenizer, PROMPTS, max_new_tokens=8) == written


def test_writing_stops_at_the_end_of_text(model: LlamaForCausalLM, tokenizer: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
    assert greedy(model, tokenizer, ["the cat"]) == [""]  # all equal: argmax is token 0, the end


def test_evaluation_leaves_random_states_and_the_model_as_they_were(model: LlamaForCausalLM, tokenizer: Any) -> None:
    model.train()
    state, config = torch.get_rng_state(), copy.deepcopy(model.generation_config.to_dict())
    model_config = copy.deepcopy(model.config.to_dict())
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    written = continuations(model, tokenizer, PROMPTS, batch_size=2, max_new_tokens=6, temperature=1.0, samples=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.generation_config.to_dict() == config and model.config.to_dict() == model_config
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert [len(texts) for texts in written] == [3] * 5
    torch.rand(7)
    assert (
        continuations(model, tokenizer, PROMPTS, batch_size=2, max_new_tokens=6, temperature=1.0, samples=3) == written
    )


def test_sampling_follows_the_softmax_at_its_temperature(model: LlamaForCausalLM, tokenizer: Any) -> None:
    a, b = (tokenizer(letter)["input_ids"][0] for letter in "ab")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    bias = torch.full((len(tokenizer),), -100.0, dtype=torch.float64)
    bias[a], bias[b] = 0.0, 1.0
    model.lm_head.register_forward_hook(lambda _m, _i, output: output + bias)
    texts = continuations(
        model, tokenizer, ["the"] * 20, batch_size=4, max_new_tokens=1, temperature=2.0, samples=100, seed=1
    )
    share = sum(text == "b" for many in texts for text in many) / 2000
    wanted = torch.sigmoid(torch.tensor(1 / 2)).item()
    assert abs(share - wanted) < 4 * (wanted * (1 - wanted) / 2000) ** 0.5


def test_a_prompt_longer_than_the_context_loses_its_beginning(model: LlamaForCausalLM, tokenizer: Any) -> None:
    prompt = "a dog sat on the mat, " * 30
    kept = tokenizer.decode(prompt_tokens(tokenizer, prompt)[-(48 - 8) :])
    assert greedy(model, tokenizer, [prompt], 8) == greedy(model, tokenizer, [kept], 8)


def test_a_module_that_cannot_write_is_refused(tokenizer: Any) -> None:
    with pytest.raises(StockpotError, match="a Linear cannot generate text"):
        greedy(nn.Linear(1, 1), tokenizer, ["a"])
