"""What a check says is what a run does: the same examples, steps and tokens, whatever the method."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import stockpot
from stockpot.checking.outcome import ShownText
from stockpot.methods import registry
from stockpot.training import plain

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_head": 1, "n_layer": 1, "n_positions": 24}


@pytest.fixture
def chats(tmp_path: Path) -> dict[str, Any]:
    """Two tasks, of chats and of texts; general texts are mixed into the first. Some chats are too long."""
    talks = [[f"Why {n}?", f"So {n}. " * (8 if n == 3 else 1)] for n in range(13)]
    rows = [
        [{"role": role, "content": text} for role, text in zip(("user", "assistant"), talk, strict=True)]
        for talk in talks
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    (tmp_path / "texts.txt").write_text("\n".join(f"line number {n} of them" for n in range(30)))
    (tmp_path / "general.txt").write_text("\n".join(f"general {n}" * (n % 3 + 1) for n in range(5)))
    return {
        "model": {"config": GPT2, "tokenizer": {"train": 300}, "chat_template": TEMPLATE},
        "tasks": [
            {
                "name": "chats",
                "data": {"path": str(tmp_path / "chats.jsonl"), "test_split": "train"},
                "mix": {"path": str(tmp_path / "general.txt"), "fraction": 0.3},
            },
            {"name": "texts", "data": {"path": str(tmp_path / "texts.txt")}, "train": {"max_steps": 5}},
        ],
        "method": {"name": "sequential"},
        "loop": "plain",
        "train": {"num_train_epochs": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
                  "learning_rate": 1e-2, "use_cpu": True},
    }  # fmt: skip


def of_run(result: stockpot.api.run_result.RunResult) -> list[tuple[int, int, int]]:
    return [(cost.steps, cost.examples, cost.tokens) for cost in result.results.task_costs]


def test_texts_have_the_steps_and_tokens_that_a_run_counts_and_that_its_loop_is_given(
    chats: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = stockpot.check(chats)
    assert checked.ok, str(checked)
    given: Counter[str] = Counter()
    moved_to = plain.moved_to

    def counting(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        given.update(examples=len(mask), tokens=int(mask.sum()))
        return moved_to(model, batch)

    monkeypatch.setattr(plain, "moved_to", counting)
    run = stockpot.run(chats, output=tmp_path / "run", progress=False)
    said = [(task.steps, task.seen_examples, task.seen_tokens) for task in checked.tasks]
    assert said == of_run(run)
    assert given == {"examples": sum(s[1] for s in said), "tokens": sum(s[2] for s in said)}
    first = checked.tasks[0]
    assert (first.train, first.general, first.examples) == (13, 6, 19)
    assert first.tokens is not None
    assert (first.tokens.cut, first.tokens.limit, first.tokens.longest) == (1, 24, 24)
    assert [task.exact for task in checked.tasks] == [True, True]


METHODS = ["joint"]


@pytest.mark.parametrize(
    "method", [name if name in METHODS else pytest.param(name, marks=pytest.mark.thorough) for name in registry()]
)
def test_images_have_the_steps_that_a_run_counts(method: str, digits_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = {**digits_recipe, "method": {"name": method, **registry()[method].typical}, "loop": "plain"}
    checked = stockpot.check(recipe, n=0)
    assert checked.ok, str(checked)
    run = stockpot.run(recipe, output=tmp_path / "run", progress=False)
    assert [(task.steps, task.seen_examples, task.seen_tokens) for task in checked.tasks] == of_run(run)


def test_the_first_examples_are_as_the_model_sees_them_with_what_is_learnt(chats: dict[str, Any]) -> None:
    checked = stockpot.check(chats, n=4)
    first = checked.tasks[0].shown[0]
    assert isinstance(first, ShownText)
    assert [(piece.text, piece.learnt) for piece in first.pieces] == [
        ("<user>Why 0?\n<assistant>", False),
        ("So 0. \n", True),
    ]
    assert "<user>Why 0?\n<assistant>«So 0. \n»" in str(checked)
    assert len(checked.tasks[0].shown) == 4
    texts = checked.tasks[1].shown[0]
    assert isinstance(texts, ShownText)
    assert [piece.learnt for piece in texts.pieces] == [False, True]  # all but the start of text


def test_a_check_writes_nothing_and_leaves_the_weights(chats: dict[str, Any], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    checked = stockpot.check(chats, time=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert all(task.seconds is not None and task.seconds > 0 for task in checked.tasks)
    assert "an estimate from forward and backward passes" in str(checked)
    assert stockpot.check(chats).tasks[0].seconds is None
