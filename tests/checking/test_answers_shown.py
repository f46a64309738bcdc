"""Prompts that a decoder answers, as `stockpot check` shows and counts them."""

from __future__ import annotations

import json
from pathlib import Path

import stockpot


def test_the_prompt_has_no_loss_and_the_answer_with_its_end_has(tmp_path: Path) -> None:
    rows = [{"q": f"which {n}?", "a": f"number {n}"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    checked = stockpot.check({
        "model": {"config": model, "tokenizer": {"train": 300}}, "scenario": "language",
        "data": {"path": str(tmp_path / "rows.jsonl"), "prompt": "q", "completion": "a"}, "tasks": [{"name": "a"}],
        "method": {"name": "sequential"}, "train": {"use_cpu": True, "max_steps": 1}, "loop": "plain",
    })  # fmt: skip
    (task,) = checked.tasks
    assert not [problem for problem in checked.problems if problem.kind == "error"]
    first = task.shown[0]
    assert [(piece.text, piece.learnt) for piece in first.pieces] == [
        ("which 0?", False), ("number 0<|endoftext|>", True),
    ]  # fmt: skip
    assert first.tokens > task.tokens.learnt / 12 > 1
