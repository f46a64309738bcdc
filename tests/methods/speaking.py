"""Toy tasks of token sequences, tiny models of them in float64, and the second task by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from toy import Weights, copied

from stockpot.batches.answered_examples import AnsweredExamples
from stockpot.batches.examples import IGNORED, Batch, TrainingData
from stockpot.batches.outputs import logits_of
from stockpot.batches.token_examples import TokenExamples
from stockpot.training.batches import EpochBatches

WORDS = 23


def texts(task: int, many: int = 22, rows: int = 0) -> TokenExamples:
    """Sequences of 3 to 7 tokens, mostly of the task's own half of the words; with `rows`, two classes of them."""
    draws = torch.Generator().manual_seed(50 + task)
    lengths = torch.randint(3, 8, (many,), generator=draws)
    total = int(lengths.sum())
    tokens = (torch.randint(1, 12, (total,), generator=draws) + 11 * (task % 2)).int()
    if rows:
        return TokenExamples(tokens, lengths.cumsum(0), rows=torch.arange(many) % 2 + 2 * (task % 2))
    targets = torch.randint(1, 12, (total,), generator=draws).int() + 11 * (task % 2)
    targets[torch.rand(total, generator=draws) < 0.3] = IGNORED  # of a prompt, say
    targets[lengths.cumsum(0) - 1] = 5  # so that every sequence has something to be learnt
    return TokenExamples(tokens, lengths.cumsum(0), targets)


def classified(task: int, many: int = 22) -> TokenExamples:
    return texts(task, many, rows=4)


def answered(task: int, many: int = 22) -> AnsweredExamples:
    """Prompts of 3 to 7 words of the task's own half, each to be answered with its first words and an end."""
    prompts = texts(task, many)
    starts = [0, *prompts.ends[:-1].tolist()]
    sequences = [prompts.tokens[start:end] for start, end in zip(starts, prompts.ends.tolist(), strict=True)]
    answers = [torch.cat([words[: 1 + number % 3], torch.zeros(1).int()]) for number, words in enumerate(sequences)]
    return AnsweredExamples(
        prompts.tokens,
        prompts.ends,
        torch.cat([torch.cat([torch.zeros(1).int(), answer[:-1]]) for answer in answers]),
        torch.cat(answers),
        torch.tensor([len(answer) for answer in answers]).cumsum(0),
    )


def t5(dropout: float = 0.0) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(7)
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": WORDS}
    config = T5Config(**sizes, dropout_rate=dropout, pad_token_id=0, eos_token_id=0, relative_attention_num_buckets=8)
    config.decoder_start_token_id = 0
    return T5ForConditionalGeneration(config).double()


def llama(tied: bool = True, rows: int = 0) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(7)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "vocab_size": WORDS, "max_position_embeddings": 16}
    sizes |= {"pad_token_id": 0, "tie_word_embeddings": tied, "initializer_range": 0.2}
    if rows:
        return LlamaForSequenceClassification(LlamaConfig(**sizes, num_labels=rows)).double()
    return LlamaForCausalLM(LlamaConfig(**sizes)).double()


def gpt2() -> nn.Module:
    """In float64 throughout, which Llama's norms are not."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(7)
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": WORDS}
    sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).double()


def log_likelihood(model: nn.Module, batch: Batch) -> Tensor:
    """Σ log p(y_t) over the positions that are to be learnt, one by one."""
    logits = logits_of(model, batch).unflatten(0, batch["labels"].shape)
    terms = [
        logits[row, place].log_softmax(0)[target]
        for row, targets in enumerate(batch["labels"].tolist())
        for place, target in enumerate(targets)
        if target != IGNORED
    ]
    return torch.stack(terms).sum()


def by_hand(
    start: Weights, data: TrainingData, seed: int, model: nn.Module, extra: Callable[[nn.Module, Batch], Tensor]
) -> Weights:
    """AdamW on the mean over tokens of −log p, plus what a method adds; batches and settings as in `toy.learn`."""
    model = copy.deepcopy(model)
    model.load_state_dict(start)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    batches = EpochBatches(data, 8, seed)
    for epoch in range(2):
        batches.set_epoch(epoch)
        for indices in batches:
            batch = data.examples.__getitems__(indices)
            loss = -log_likelihood(model, batch) / int((batch["labels"] >= 0).sum()) + extra(model, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return copied(model)
