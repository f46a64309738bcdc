"""Runs of T5 on prompts with completions: scores, adapters, added tasks, merges, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, BartForConditionalGeneration

import stockpot
from stockpot.errors import StockpotError
from stockpot.evaluation.language.generation import continuations
from stockpot.models.tokenizer import train_tokenizer

WORDS = ["red", "green", "blue", "big", "small", "old", "new"]
SIZES = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
TRAIN = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 3e-2, "use_cpu": True}
EXACT = {"name": "exact_match", "extract": None, "max_new_tokens": 4}
CHOICE = {"name": "multiple_choice", "choices": WORDS}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of four words each, of which the first, or the second, is the answer."""
    folder, draws = tmp_path_factory.mktemp("questions"), random.Random(0)
    for place, name in enumerate(("first", "second")):
        rows = [draws.choices(WORDS, k=4) for _ in range(30)]
        lines = [json.dumps({"q": " ".join(words), "a": words[place]}) for words in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def recipe(questions: Path, **changes: Any) -> dict[str, Any]:
    tasks = [{"name": name, "data": {"path": str(questions / f"{name}.jsonl")}} for name in ("first", "second")]
    return {
        "model": {"config": SIZES, "tokenizer": {"train": 300}}, "scenario": "language", "loop": "plain",
        "data": {"prompt": "say it: {q}", "completion": "a"}, "tasks": tasks, "train": TRAIN,
        "method": {"name": "sfa", "beta": 0.2}, **changes,
    }  # fmt: skip


def test_a_t5_learns_answers_and_is_scored_by_likelihood_and_by_what_it_writes(questions: Path, tmp_path: Path) -> None:
    control = {"name": "general", "data": {"path": str(questions / "second.jsonl")}}
    metrics = ["loss", "perplexity", "bits_per_byte", "token_accuracy", EXACT, CHOICE]
    run = stockpot.run(recipe(questions, metrics=metrics, controls=[control]), output=tmp_path / "run")
    scores, folder = run.results.scores, run.path / "tasks" / "02-second" / "model"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    held_out = sorted(np.random.default_rng(0).permutation(30)[:3])
    rows = [json.loads(line) for line in (questions / "first.jsonl").read_text().splitlines()]
    nats = tokens = hits = best = 0.0
    for row in (rows[index] for index in held_out):
        ids = tokenizer(f"say it: {row['q']}", return_tensors="pt").input_ids
        answer = torch.tensor([tokenizer(row["a"])["input_ids"]])
        with torch.no_grad():
            nats += float(model(input_ids=ids, labels=answer).loss) * answer.shape[1]
            written = model.generate(ids, max_new_tokens=4, do_sample=False)[0]
            each = [
                -float(model(input_ids=ids, labels=torch.tensor([tokenizer(word)["input_ids"]])).loss)
                * len(tokenizer(word)["input_ids"])
                for word in WORDS
            ]
        tokens += answer.shape[1]
        hits += tokenizer.decode(written, skip_special_tokens=True).strip() == row["a"]
        best += WORDS[each.index(max(each))] == row["a"]
    assert scores["loss"].matrix[1][0] == pytest.approx(nats / tokens, rel=1e-4)
    assert scores["exact_match"].matrix[1][0] == pytest.approx(hits / 3)
    assert scores["multiple_choice"].matrix[1][0] in (pytest.approx(best / 3), None)
    assert scores["loss"].controls["general"][-1] == scores["loss"].matrix[1][1]
    assert (model.config.decoder_start_token_id, model.generation_config.decoder_start_token_id) == (0, 0)
    assert "AutoModelForSeq2SeqLM" in (folder / "README.md").read_text()
    assert "pipeline_tag: text2text-generation" in (folder / "README.md").read_text()
    longer = stockpot.add(
        run, {"name": "third", "data": {"path": str(questions / "first.jsonl")}}, output=tmp_path / "b"
    )
    assert len(longer.results.scores["loss"].matrix) == 3
    merged = tmp_path / "merged"
    stockpot.merge("linear", [run.path / "tasks" / name / "model" for name in ("01-first", "02-second")], output=merged)
    one, other, mean = (
        load_file(path / "model.safetensors") for path in (folder.parents[1] / "01-first" / "model", folder, merged)
    )
    torch.testing.assert_close(mean["shared.weight"], (one["shared.weight"] + other["shared.weight"]) / 2)
    assert type(AutoModelForSeq2SeqLM.from_pretrained(merged)).__name__ == "T5ForConditionalGeneration"


@pytest.mark.parametrize(
    ("lora", "loop"),
    [
        pytest.param({"r": 2}, "plain", marks=pytest.mark.thorough),
        ({"r": 2, "output": "adapter", "target_modules": ["q", "v"]}, "trainer"),
    ],
    ids=["merged", "adapter"],
)
def test_adapters_of_a_t5(lora: dict[str, Any], loop: str, questions: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = {"config": SIZES, "tokenizer": {"train": 300}, "lora": lora}
    run = stockpot.run(recipe(questions, model=model, loop=loop), output=tmp_path / "run")
    loaded = run.model()
    if lora.get("output") == "adapter":
        config = json.loads((run.path / "tasks" / "02-second" / "model" / "adapter_config.json").read_text())
        assert (config["task_type"], config["r"], set(config["target_modules"])) == ("SEQ_2_SEQ_LM", 4, {"q", "v"})
    start = load_file(run.path / "tasks" / "00-start" / "model" / "model.safetensors")
    trained = {name: tensor for name, tensor in loaded.state_dict().items() if "SelfAttention.q" in name}
    assert trained and torch.equal(loaded.get_input_embeddings().weight, start["shared.weight"])


def test_an_encoders_prompts_are_padded_behind_their_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 9, 290)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, init_std=0.5,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    prompts = ["red green", "old", "a much longer prompt than the others, cut at its end, since 32 tokens are the most"]
    together = continuations(model, tokenizer, prompts, batch_size=3, max_new_tokens=5)
    assert together == [
        continuations(model, tokenizer, [prompt], batch_size=1, max_new_tokens=5)[0] for prompt in prompts
    ]
    ids = tokenizer(prompts[0], return_tensors="pt").input_ids
    expected = model.generate(ids, max_new_tokens=5, do_sample=False, num_beams=1)[0]
    assert together[0][0] == tokenizer.decode(expected[1:], skip_special_tokens=True)
    assert model.generation_config.max_new_tokens is None


LLAMA = {**dict.fromkeys(("hidden_size", "intermediate_size"), 8), "num_hidden_layers": 1, "num_attention_heads": 2}
CAUSAL = {"config": {"model_type": "llama", **LLAMA}, "tokenizer": {"train": 300}}
PAIRS = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"text": "q"}}, "the model, t5, reads a prompt .*these data are plain texts; give data.prompt"),
        ({"data": {**PAIRS, "packing": True}}, r"data\.packing: each prompt has an encoder"),
        ({"method": {"name": "ewc", "fisher": "exact"}}, "'exact' of a language model would"),
        ({"model": CAUSAL, "data": {**PAIRS, "long_prompts": "cut"}}, "cut is for models with an encoder"),
    ],
)
def test_what_a_decoder_does_not_learn_is_refused(
    changes: dict[str, Any], message: str, questions: Path, tmp_path: Path
) -> None:
    with pytest.raises(StockpotError, match=message) as caught:
        stockpot.run(recipe(questions, **changes), output=tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
