"""Texts, pairs and chats as token sequences: exact targets, nothing lost, nothing learnt twice."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from stockpot.batches.examples import IGNORED
from stockpot.batches.token_examples import TokenExamples
from stockpot.errors import StockpotError
from stockpot.models.tokenizer import train_tokenizer
from stockpot.streams.text.packing import best_fit, packed
from stockpot.streams.text.rows import Chat, Item, PromptPair, TextRows
from stockpot.streams.text.tokens import Tokenised, classification_tokens, sequence_length, text_part, tokenise

TOKENIZER: Any = train_tokenizer([], 300)  # no merges: a token a byte, and 0 ends a text
END = 0
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|endoftext|>\n{% endfor %}"
PLAIN += "{% if add_generation_prompt %}[assistant]{% endif %}"
MARKED = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|endoftext|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|endoftext|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TALK = [
    {"role": "user", "content": "hi é"}, {"role": "assistant", "content": "yö"},
    {"role": "user", "content": "so"}, {"role": "assistant", "content": "no"},
]  # fmt: skip


def rows(*items: Item) -> TextRows:
    return TextRows("task 'law': data.jsonl, split 'train'", items, range(10, 10 + len(items)), list(items))


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text)["input_ids"])


def sequences(examples: TokenExamples) -> list[tuple[list[int], list[int]]]:
    assert examples.targets is not None
    starts = [0, *examples.ends.tolist()]
    spans = [slice(start, end) for start, end in itertools.pairwise(starts)]
    return [(examples.tokens[span].tolist(), examples.targets[span].tolist()) for span in spans]


def learnt(made: Tokenised) -> list[str]:
    """What each sequence teaches, as text."""
    return [TOKENIZER.decode([t for t in targets if t != IGNORED]) for _, targets in sequences(made.examples)]


def templated(template: str) -> Any:
    tokenizer = train_tokenizer([], 300)
    tokenizer.chat_template = template
    return tokenizer


def test_packed_texts_run_on_and_every_token_is_predicted_from_the_one_before() -> None:
    made = tokenise(rows("abc", "de"), TOKENIZER, 4, packing=None, training=True)
    stream = [END, *ids("abc"), END, *ids("de"), END]
    assert sequences(made.examples) == [(stream[0:4], stream[1:5]), (stream[4:7], stream[5:8])]
    assert made.examples.positions is None
    assert made.bytes == 5


def test_unpacked_texts_stand_alone_in_pieces() -> None:
    made = tokenise(rows("abc", "d"), TOKENIZER, 3, packing=False, training=True)
    a, b, c, d = ids("abcd")
    assert sequences(made.examples) == [([END, a, b], [a, b, c]), ([c], [END]), ([END, d], [d, END])]


def test_a_beginning_that_is_not_the_end_stands_before_each_text_and_is_not_learnt() -> None:
    tokenizer = train_tokenizer([], 300)
    tokenizer.bos_token = "!"
    a, b, bos = *ids("ab"), *ids("!")
    made = tokenise(rows("a", "b"), tokenizer, 10, packing=True, training=True)
    assert sequences(made.examples) == [([bos, a, END, bos, b], [a, END, IGNORED, b, END])]
    tested = tokenise(rows("a", "b"), tokenizer, 10, packing=True, training=False)
    assert sequences(tested.examples) == [([bos], [a]), ([bos], [b])]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.integers(2, 9))
def test_a_tested_text_is_predicted_once_token_by_token(texts: list[str], longest: int) -> None:
    made = tokenise(rows(*texts), TOKENIZER, longest, packing=None, training=False)
    every = [token for _, targets in sequences(made.examples) for token in targets]
    assert every == [token for text in texts for token in ids(text)]
    assert made.bytes == sum(len(text.encode()) for text in texts)
    assert max(len(tokens) for tokens, _ in sequences(made.examples)) <= longest
    batch = made.examples.__getitems__(range(len(made.examples)))
    flat = torch.zeros(*batch["labels"].shape, 300, dtype=torch.float64)
    total = cross_entropy(flat.flatten(0, 1), batch["labels"].flatten(), reduction="sum", ignore_index=IGNORED)
    assert float(total) == pytest.approx(len(every) * math.log(300), rel=1e-12)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.integers(2, 9), st.booleans())
def test_no_token_of_the_training_texts_is_lost(texts: list[str], longest: int, packing: bool) -> None:
    made = tokenise(rows(*texts), TOKENIZER, longest, packing=packing, training=True)
    every = [token for _, targets in sequences(made.examples) for token in targets]
    assert every == [token for text in texts for token in [*ids(text), END]]


def test_of_a_pair_the_completion_is_learnt_and_in_training_its_end() -> None:
    pair = rows(PromptPair("Q:", " é"))
    ((tokens, targets),) = sequences(tokenise(pair, TOKENIZER, 9, packing=False, training=True).examples)
    assert tokens == ids("Q: é")
    assert targets == [IGNORED, *ids(" é"), END]
    tested = tokenise(pair, TOKENIZER, 9, packing=False, training=False)
    assert learnt(tested) == [" é"]
    assert tested.bytes == 3


def test_an_empty_prompt_is_the_start_of_text() -> None:
    made = tokenise(rows(PromptPair("", "a")), TOKENIZER, 9, packing=False, training=True)
    assert sequences(made.examples) == [([END, *ids("a")], [*ids("a"), END])]
    assert text_part("law", rows(PromptPair("", "a")), made, TOKENIZER).prompts == ["<|endoftext|>"]


def test_a_token_that_would_reach_across_the_boundary_is_not_made() -> None:
    merged = train_tokenizer(["xy xy xy xy"] * 5, 300)
    assert len(merged("xy")["input_ids"]) == 1
    made = tokenise(rows(PromptPair("x", "y")), merged, 9, packing=False, training=True)
    x, y = merged("x")["input_ids"][0], merged("y")["input_ids"][0]
    assert sequences(made.examples) == [([x, y], [y, END])]


def test_a_long_completion_loses_its_end_and_its_bytes() -> None:
    made = tokenise(rows(PromptPair("ab", "cdef"), PromptPair("a", "b")), TOKENIZER, 4, packing=False, training=False)
    assert learnt(made) == ["cde", "b"]
    assert (made.bytes, made.cut) == (4, 1)


def test_a_prompt_that_fills_the_context_is_named() -> None:
    assert learnt(tokenise(rows(PromptPair("abcd", "e")), TOKENIZER, 4, packing=False, training=True)) == ["e"]
    with pytest.raises(StockpotError, match=r"task 'law': data.jsonl, split 'train', row 11: the prompt has 5 tokens, "
                       r"and a sequence takes 4, .*max_length"):  # fmt: skip
        tokenise(rows(PromptPair("a", "b"), PromptPair("abcde", "f")), TOKENIZER, 4, packing=True, training=True)


def test_prompts_that_fill_the_context_are_dropped_where_that_is_asked_for() -> None:
    three = rows(PromptPair("a", "b"), PromptPair("abcde", "f"), PromptPair("c", "d"))
    made = tokenise(three, TOKENIZER, 4, packing=False, training=False, drop=True)
    assert (learnt(made), made.bytes, made.dropped) == (["b", "d"], 2, (1,))
    of = Dataset.from_list([{"number": number} for number in range(3)])
    part = text_part("law", replace(three, rows=of), made, TOKENIZER)
    assert (part.completions, [row["number"] for row in part.rows]) == (["b", "d"], [0, 2])
    with pytest.raises(StockpotError, match="row 10: the prompt has 5 tokens"):
        tokenise(rows(PromptPair("abcde", "f")), TOKENIZER, 4, packing=False, training=True, drop=True)


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_of_a_chat_what_the_assistant_says_is_learnt(template: str) -> None:
    tokenizer = templated(template)
    made = tokenise(rows(Chat(TALK)), tokenizer, 999, packing=False, training=False)
    (text,) = learnt(made)
    assert text.replace("\n", "") == "yöno"
    assert made.bytes == len(text.encode())
    (trained,) = learnt(tokenise(rows(Chat(TALK)), tokenizer, 999, packing=False, training=True))
    assert trained.replace("\n", "") == "yö<|endoftext|>no<|endoftext|>"
    (last,) = learnt(tokenise(rows(Chat(TALK, prompt_length=3)), tokenizer, 999, packing=False, training=True))
    assert last.strip() == "no<|endoftext|>"


def test_the_prompt_of_a_chat_makes_the_assistant_speak() -> None:
    tokenizer = templated(PLAIN)
    part = text_part("law", rows(Chat(TALK)), tokenise(rows(Chat(TALK)), tokenizer, 99, packing=False, training=False),
                     tokenizer)  # fmt: skip
    assert part.completions == ["no"]
    assert part.prompts[0].endswith("[user]so<|endoftext|>\n[assistant]")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "no chat template: give model.chat_template"),
        ("{{ raise_exception('roles must alternate') }}", "fails: roles must alternate"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "{% generation %}"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_named_with_the_row(template: Any, expected: str) -> None:
    with pytest.raises(StockpotError) as caught:
        tokenise(rows(Chat(TALK)), templated(template), 99, packing=False, training=True)
    assert "split 'train', row 10: " in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(12, 30))
def test_blocks_hold_everything_once_and_not_too_much(lengths: list[int], capacity: int) -> None:
    blocks = best_fit(lengths, capacity)
    assert sorted(index for block in blocks for index in block) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in block) <= capacity for block in blocks)
    assert blocks == best_fit(lengths, capacity)
    assert len(blocks) <= 1 + 2 * sum(lengths) // capacity  # at most one block can be half empty


def test_the_fullest_block_with_room_is_chosen() -> None:
    assert best_fit([3, 7, 6, 4], 10) == [[0, 1], [2, 3]]


PAIRS = rows(PromptPair("ab", "cde"), PromptPair("f", "gh"), PromptPair("ij", "k"), PromptPair("l", "mnopq"))


def test_packing_keeps_every_sequence_whole_and_counts_its_positions() -> None:
    alone = tokenise(PAIRS, TOKENIZER, 9, packing=False, training=True).examples
    blocks = tokenise(PAIRS, TOKENIZER, 9, packing=True, training=True).examples
    assert len(blocks) < len(alone)
    assert blocks.positions is not None
    pieces = []
    for start in (blocks.positions == 0).nonzero().flatten().tolist():
        end = next((n for n in range(start + 1, len(blocks.tokens)) if blocks.positions[n] == 0), len(blocks.tokens))
        assert blocks.positions[start:end].tolist() == list(range(end - start))
        assert blocks.targets is not None
        pieces.append((blocks.tokens[start:end].tolist(), blocks.targets[start:end].tolist()))
    assert sorted(pieces) == sorted(sequences(alone))


def tiny(kind: str, attention: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    common: dict[str, Any] = {"vocab_size": 300, "attn_implementation": attention}
    if kind == "llama":
        config: Any = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                                  num_key_value_heads=1, max_position_embeddings=32, **common)  # fmt: skip
        return LlamaForCausalLM(config).double()
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
                        **common)  # fmt: skip
    return GPT2LMHeadModel(config).double()


def loss_and_gradients(model: Any, examples: TokenExamples) -> tuple[float, list[torch.Tensor]]:
    batch = examples.__getitems__(range(len(examples)))
    targets = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    return loss.item(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_sequences_give_the_loss_and_gradients_of_sequences_alone(kind: str, attention: str) -> None:
    model = tiny(kind, attention)
    # Llama's eager attention takes its softmax in fp32, whose sums round by their length on some processors.
    bound = 1e-7 if (kind, attention) == ("llama", "eager") else 1e-12
    alone = tokenise(PAIRS, TOKENIZER, 9, packing=False, training=True).examples
    loss, gradients = loss_and_gradients(model, alone)
    packed_loss, packed_gradients = loss_and_gradients(model, packed(alone, 9))
    assert packed_loss == pytest.approx(loss, abs=bound)
    for one, other in zip(packed_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=bound)


def test_the_length_of_a_sequence_is_what_the_model_takes() -> None:
    model = tiny("gpt2", "eager")
    assert sequence_length(None, model.config, "task 'law'") == 32
    assert sequence_length(8, model.config, "task 'law'") == 8
    model.config.n_positions = 4096
    assert sequence_length(None, model.config, "task 'law'") == 1024
    with pytest.raises(StockpotError, match=r"task 'law': data.max_length: 5000 tokens are more than the 4096"):
        sequence_length(5000, model.config, "task 'law'")


def test_classified_texts_keep_their_output_rows_and_lose_their_ends() -> None:
    made = classification_tokens(["abc", "d"], [5, 2], TOKENIZER, 2)
    batch = made.__getitems__([0, 1])
    assert batch["labels"].tolist() == [5, 2]
    assert batch["input_ids"].tolist() == [ids("ab"), [*ids("d"), END]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
