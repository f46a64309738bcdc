"""A task of lm-evaluation-harness over local files, against the likelihoods that Stockpot computes itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from stockpot.errors import StockpotError
from stockpot.evaluation.scores.lm_eval import LmEval, declared_direction, pick_result, run_harness
from stockpot.evaluation.scores.multiple_choice import log_likelihoods
from stockpot.models.tokenizer import train_tokenizer

QUESTIONS = [("Is it", 0), ("Can it be", 1), ("Was it", 1), ("Will it", 0), ("Had it been", 1), ("May it", 0)]
CHOICES = ["yes", "no it is not"]


def definition(folder: Path) -> dict[str, Any]:
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in QUESTIONS]
    (folder / "test.jsonl").write_text("\n".join(rows))
    return {
        "task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "test.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}?",
        "doc_to_choice": CHOICES, "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip


def spec(task: Any, metric: str = "acc", **keys: Any) -> LmEval:
    return LmEval(name="lm_eval", tasks=["law"], task=task, metric=metric, **keys)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["Is it? yes Can it be? no it is not Was it? Will it? Had it been? May it?"] * 9, 290)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_accuracy_of_a_local_task_is_that_of_our_own_likelihoods_and_nothing_is_disturbed(
    model: LlamaForCausalLM, tokenizer: Any, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `eval`)")
    task = definition(tmp_path)
    hits = 0
    for question, answer in QUESTIONS:
        prompts = [(f"{question}?", f" {choice}") for choice in CHOICES]
        likelihoods = [value for value, _ in log_likelihoods(model, tokenizer, prompts, 2)]
        hits += likelihoods.index(max(likelihoods)) == answer
    model.train()
    python, state = random.getstate(), torch.get_rng_state()
    score = run_harness(spec(task), model, tokenizer, batch_size=4)
    assert score == pytest.approx(hits / len(QUESTIONS))
    assert model.training and random.getstate() == python and torch.equal(torch.get_rng_state(), state)

    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task))
    assert run_harness(spec(str(tmp_path / "mine.yaml")), model, tokenizer, batch_size=1) == score


def test_the_harness_says_which_way_its_metrics_run() -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `eval`)")
    assert declared_direction(spec("anything", "acc"))
    assert not declared_direction(spec("anything", "word_perplexity,none"))
    with pytest.raises(StockpotError, match="give `better`"):
        declared_direction(spec("anything", "my_own"))


def test_a_yaml_file_runs_no_code(tmp_path: Path, model: LlamaForCausalLM, tokenizer: Any) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `eval`)")
    (tmp_path / "utils.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(doc): return ''")
    (tmp_path / "mine.yaml").write_text("task: mine\ndoc_to_text: !function utils.f\n")
    with pytest.raises(StockpotError, match=r"mine\.yaml"):
        run_harness(spec(str(tmp_path / "mine.yaml")), model, tokenizer, 1)
    assert not (tmp_path / "ran").exists()


def test_a_task_that_fails_is_one_line(tmp_path: Path, model: LlamaForCausalLM, tokenizer: Any) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `eval`)")
    broken = {**definition(tmp_path), "doc_to_text": "{{nothing}}"}
    with pytest.raises(StockpotError, match="'mine' failed") as caught:
        run_harness(spec(broken), model, tokenizer, 1)
    assert "\n" not in str(caught.value)


def test_results_are_picked_by_name_and_filter() -> None:
    results = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "em,strict": 0.25, "em,loose": 0.75}
    assert pick_result(spec("t", "acc"), results) == 0.5
    assert pick_result(spec("t", "em,loose"), results) == 0.75
    with pytest.raises(StockpotError, match="several results 'em'; give one of em,strict, em,loose"):
        pick_result(spec("t", "em"), results)
    with pytest.raises(StockpotError, match="no result 'f1'; give one of acc,none"):
        pick_result(spec("t", "f1"), results)
