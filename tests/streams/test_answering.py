"""Prompts and completions for an encoder and a decoder: every token of the answer once, as Transformers feeds it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import DataCollatorForSeq2Seq, T5Config, T5ForConditionalGeneration

from stockpot.batches.examples import IGNORED
from stockpot.batches.losses import mean_loss
from stockpot.batches.outputs import logits_of
from stockpot.errors import StockpotError
from stockpot.models.tokenizer import train_tokenizer
from stockpot.streams.text.answering import tokenise_answers
from stockpot.streams.text.rows import PromptPair, TextRows
from stockpot.streams.text.tokens import text_part

START = 7


def ending() -> Any:
    """A tokenizer that ends every text, as T5's does: a token a byte."""
    tokenizer: Any = train_tokenizer([], 300)
    end = ("<|endoftext|>", 0)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[attr-defined]
        single=f"$A {end[0]}", special_tokens=[end]
    )
    return tokenizer


def rows(*pairs: tuple[str, str]) -> TextRows:
    items = [PromptPair(*pair) for pair in pairs]
    return TextRows("task 'law': data.jsonl, split 'train'", items, range(10, 10 + len(items)), list(items))


def made(tokenizer: Any, texts: TextRows, most: int = 99, training: bool = True, long: Any = "error") -> Any:
    return tokenise_answers(texts, tokenizer, most, decoder_start=START, training=training, long_prompts=long)


@pytest.mark.parametrize("tokenizer", [train_tokenizer([], 300), ending()], ids=["bare", "ending"])
def test_the_decoder_starts_at_its_token_and_learns_the_answer_with_its_end(tokenizer: Any) -> None:
    examples = made(tokenizer, rows(("what?", "no"), ("a", "yes")), most=6).examples
    batch = examples.__getitems__([0, 1])
    no, yes = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("no", "yes"))
    assert batch["labels"].tolist() == [[*no, 0, IGNORED], [*yes, 0]]
    assert batch["decoder_input_ids"].tolist() == [[START, *no, 0], [START, *yes]]
    assert batch["input_ids"][0].tolist() == tokenizer("what?")["input_ids"]
    assert batch["attention_mask"].sum(1).tolist() == [
        len(tokenizer("what?")["input_ids"]),
        len(tokenizer("a")["input_ids"]),
    ]
    assert examples.lengths.tolist() == [len(tokenizer("what?")["input_ids"]), 4]


def test_the_loss_is_that_of_transformers_on_its_own_batch() -> None:
    tokenizer = ending()
    pairs = [("what is it?", "no"), ("a", "yes, yes"), ("b c", "q")]
    torch.manual_seed(0)
    config = T5Config(
        d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=300, pad_token_id=0, eos_token_id=0
    )
    config.decoder_start_token_id = START
    model = T5ForConditionalGeneration(config).eval()
    features = [
        {"input_ids": tokenizer(prompt)["input_ids"], "labels": tokenizer(text_target=completion)["input_ids"]}
        for prompt, completion in pairs
    ]
    theirs = model(**DataCollatorForSeq2Seq(tokenizer, model=model)(features)).loss
    batch = made(tokenizer, rows(*pairs)).examples.__getitems__([0, 1, 2])
    torch.testing.assert_close(mean_loss("single_label_classification", logits_of(model, batch), batch), theirs)


def test_a_test_part_predicts_the_bytes_of_the_completions_and_no_special_token() -> None:
    tokenizer = ending()
    texts = rows(("p", "aé"), ("q", "b"))
    tokenised = made(tokenizer, texts, training=False)
    assert tokenised.bytes == 4
    assert int((tokenised.examples.targets != IGNORED).sum()) == 4
    part = text_part("law", texts, tokenised, tokenizer)
    assert (part.prompts, part.completions) == (["p", "q"], ["aé", "b"])


def test_long_prompts_are_an_error_with_their_row_or_left_out_or_cut() -> None:
    tokenizer, texts = ending(), rows(("p", "a"), ("too long", "b"), ("q", "a long answer"))
    with pytest.raises(
        StockpotError, match=r"split 'train', row 11: the prompt has 9 tokens, and the model reads 5; .*cut"
    ):
        made(tokenizer, texts, most=5)
    dropped = made(tokenizer, texts, most=5, long="drop")
    assert (dropped.dropped, len(dropped.examples), dropped.cut) == ((1,), 2, 1)  # and an answer lost its end
    cut = made(tokenizer, texts, most=5, long="cut")
    assert (cut.dropped, cut.cut) == ((), 2)
    assert tokenizer.decode(cut.examples.__getitems__([1])["input_ids"][0]) == "too <|endoftext|>"
    assert cut.bytes == 1 + 1 + 5
    with pytest.raises(StockpotError, match="row 10: the prompt has 2 tokens"):
        made(tokenizer, rows(("p", "a")), most=1, long="drop")
