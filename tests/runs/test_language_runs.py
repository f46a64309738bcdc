"""Runs of `scenario: language`: killed inside a task, added to, and what their folders hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from running import Stockpot, Unbroken, journal, results, same, write
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from stockpot.models.tokenizer import train_tokenizer
from stockpot.streams.spec import DataSpec
from stockpot.streams.text.text_source import open_text

Make = Callable[..., Unbroken]
WORDS = ["the", "law", "of", "the", "land,", "and", "the", "sum", "of", "two", "and", "two"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LLAMA = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 48, "attention_dropout": 0.1, "initializer_range": 0.1,
}  # fmt: skip
TRAIN = {
    "num_train_epochs": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_steps": 2, "use_cpu": True,
}  # fmt: skip
LORA = {"r": 2, "lora_dropout": 0.1}
MODELS: dict[str, dict[str, Any]] = {
    "full": {}, "merged": {"lora": LORA}, "adapter": {"lora": {**LORA, "output": "adapter"}},
}  # fmt: skip
CASES = [
    ("full", "plain"),
    ("adapter", "trainer"),
    pytest.param("full", "trainer", marks=pytest.mark.thorough),
    pytest.param("merged", "plain", marks=pytest.mark.thorough),
]


def said(number: int, many: int) -> str:
    return " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, many + 1))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, pairs and chats as files, and a tokenizer of them."""
    folder = tmp_path_factory.mktemp("texts")

    def ask(row: int) -> dict[str, str]:
        return {"role": "user", "content": said(row, 3)}

    def answer(row: int) -> dict[str, str]:
        return {"role": "assistant", "content": said(row + 5, 3)}

    rows: dict[str, Callable[[int], dict[str, Any]]] = {
        "law": lambda row: {"title": said(row, 2), "body": said(row, 14)},
        "sums": lambda row: {"question": said(row, 3), "answer": said(row + 3, 2)},
        "talk": lambda row: {"messages": [ask(row), answer(row)]},
    }
    for name, make in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(make(row)) + "\n" for row in range(16)))
    tokenizer = train_tokenizer([" ".join(WORDS)] * 9, 280)
    tokenizer.pad_token = None  # end of text stands in
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def stream(texts: Path, kind: str = "full", **changes: Any) -> dict[str, Any]:
    """Texts in a template, packed pairs, and chats in a template of the recipe's; SFA from the first task on."""
    return {
        "model": {"config": LLAMA, "tokenizer": str(texts / "tokenizer"), "chat_template": TEMPLATE, **MODELS[kind]},
        "scenario": "language",
        "data": {"test_split": None},
        "tasks": [
            {"name": "law", "data": {"path": str(texts / "law.jsonl"), "text": "# {title}\n{body}"}},
            {"name": "sums", "data": {"path": str(texts / "sums.jsonl"), "prompt": "{question}? ",
                                      "completion": "answer", "packing": True}},
            {"name": "talk", "data": {"path": str(texts / "talk.jsonl")}},
        ],
        "controls": [{"name": "other", "data": {"path": str(texts / "law.jsonl"), "text": "title"}}],
        "metrics": ["loss", "perplexity", "token_accuracy"],
        "method": {"name": "sfa", "beta": 0.25, "p": 0.25, "first_task": "average"},
        "train": TRAIN,
        **changes,
    }  # fmt: skip


def steps(whole: Unbroken) -> list[int]:
    return [event["costs"]["steps"] for event in journal(whole.run) if event["event"] == "task"]


@pytest.mark.parametrize(("kind", "loop"), CASES)
def test_a_run_killed_inside_a_task_goes_on_bit_for_bit_and_tokenises_nothing_again(
    stockpot: Stockpot, unbroken: Make, texts: Path, tmp_path: Path, kind: str, loop: str
) -> None:
    whole, run = unbroken(**stream(texts, kind, loop=loop)), tmp_path / "run"
    first, second, _ = steps(whole)
    assert second == 4
    fault = {"do": "kill", "kind": "step", "at": first + 4}
    assert stockpot("run", whole.file, "-o", run, root=run, fault=fault).code == -9
    assert [event["event"] for event in journal(run)[-2:]] == ["task", "checkpoint"]
    done = stockpot("resume", run, root=run)
    assert done.code == 0, done.err
    same(run, whole.run)
    assert [kind for kind, _ in done.events].count("step") == sum(steps(whole)) - first - 2
    assert "tokenise" not in {kind for kind, _ in done.events}


@pytest.mark.parametrize(("kind", "loop"), [pytest.param("full", "plain", marks=pytest.mark.thorough), *CASES[1:]])
def test_an_added_task_equals_the_longer_stream_and_the_folder_is_what_a_user_loads(
    stockpot: Stockpot, unbroken: Make, texts: Path, tmp_path: Path, kind: str, loop: str
) -> None:
    recipe = stream(texts, kind, loop=loop)
    whole, run = unbroken(**recipe), tmp_path / "run"
    copytree(unbroken(**{**recipe, "tasks": recipe["tasks"][:2]}).run, run)
    done = stockpot("add", run, write(tmp_path / "task.yaml", recipe["tasks"][2]), root=run)
    assert done.code == 0, done.err
    same(run, whole.run)

    folder = run / "tasks" / "03-talk" / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (tokenizer.chat_template, tokenizer.pad_token) == (TEMPLATE, tokenizer.eos_token)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0
    assert model.config.use_cache
    asked = [{"role": "user", "content": "the sum"}]
    tokens = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt").input_ids
    assert model.generate(tokens, max_new_tokens=3, min_new_tokens=3).shape[1] == tokens.shape[1] + 3
    (law,) = open_text(DataSpec(path=str(texts / "law.jsonl"), text="# {title}\n{body}"), "law").test.items
    read = torch.tensor([[tokenizer.bos_token_id, *tokenizer(law).input_ids]])
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(model.eval()(read[:, :-1]).logits[0], read[0, 1:])
    written = results(run)["scores"]
    assert written["loss"]["matrix"][-1][0] == pytest.approx(float(nats), rel=1e-5)
    files = {path.name for path in folder.iterdir()}
    assert {"README.md", "tokenizer.json", "chat_template.jinja"} < files
    assert ("generation_config.json" in files) == (kind != "adapter")

    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == ("peft" if kind == "adapter" else "transformers")
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.datasets is None  # files of this machine are no hub's
    for name, unit, better in (("loss", "nats per token", "lower"), ("token\\_accuracy", "fraction", "higher")):
        assert f"**{name}**, {unit}: {better} is better." in card.text
    loss = [*written["loss"]["matrix"][-1], written["loss"]["controls"]["other"][-1]]
    assert f"| 3 talk | {' | '.join(f'{value:.2f}' for value in loss)} |" in card.text
    assert "| after, on | law | sums | talk | (other) |" in card.text


def test_whoever_resumes_a_run_agrees_again_to_run_what_the_model_writes(
    stockpot: Stockpot, texts: Path, tmp_path: Path
) -> None:
    """Before a step is trained, not at the end of the task."""
    recipe = {**stream(texts), "tasks": stream(texts)["tasks"][1:2], "controls": []}
    score = {"name": "pass@k", "run_code": True, "tests": "answer", "limit": 1, "max_new_tokens": 2}
    file, run = write(tmp_path / "recipe.yaml", {**recipe, "metrics": ["loss", score]}), tmp_path / "run"
    fault = {"do": "kill", "kind": "step", "at": 2}
    assert stockpot("run", file, "--run-code-unsandboxed", "-o", run, root=run, fault=fault).code == -9
    refused = stockpot("resume", run, root=run)
    assert refused.code == 2
    assert "add --run-code to the command" in refused.error
    assert "step" not in {kind for kind, _ in refused.events}
    assert stockpot("resume", run, "--run-code-unsandboxed", root=run).code == 0
    assert results(run)["scores"]["pass@1"]["matrix"] == [[0.0]]


def test_a_tokenizer_trained_on_the_stream_is_kept_with_the_run(
    stockpot: Stockpot, unbroken: Make, texts: Path, tmp_path: Path
) -> None:
    """An added task is read in the tokens of the run, not of a tokenizer trained anew with its texts."""
    recipe = stream(texts)
    recipe = {**recipe, "model": {**recipe["model"], "tokenizer": {"train": 300}}, "tasks": recipe["tasks"][:1],
              "controls": [], "method": {"name": "sequential"}, "train": {**TRAIN, "max_steps": 1}}  # fmt: skip
    run = tmp_path / "run"
    copytree(unbroken(**recipe).run, run)
    done = stockpot("add", run, write(tmp_path / "task.yaml", stream(texts)["tasks"][1]), root=run)
    assert done.code == 0, done.err
    start, end = (run / "tasks" / place / "model" / "tokenizer.json" for place in ("00-start", "02-sums"))
    assert start.read_bytes() == end.read_bytes()
    weights = load_file(end.parent / "model.safetensors")
    assert len(AutoTokenizer.from_pretrained(end.parent)) == len(weights["model.embed_tokens.weight"])


def test_texts_with_classes_are_added_to_killed_resumed_and_loaded(
    stockpot: Stockpot, unbroken: Make, texts: Path, tmp_path: Path
) -> None:
    kinds = ["law", "sums", "code"]
    rows = [{"text": f"{kinds[row % 3]} {said(row, 3 + row % 4)}", "kind": kinds[row % 3]} for row in range(24)]
    (tmp_path / "kinds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe: dict[str, Any] = {
        "model": {"config": LLAMA, "tokenizer": str(texts / "tokenizer")},
        "head": "seen",
        "data": {"path": str(tmp_path / "kinds.jsonl"), "text": "> {text}", "label": "kind", "test_split": "train"},
        "tasks": [{"name": "one", "data": {"classes": kinds[:2]}}, {"name": "two", "data": {"classes": kinds[2:]}}],
        "method": {"name": "sfa", "first_task": "average"},
        "train": TRAIN,
    }
    whole, run = unbroken(**recipe), tmp_path / "run"
    copytree(unbroken(**{**recipe, "tasks": recipe["tasks"][:1]}).run, run)
    fault = {"do": "kill", "kind": "step", "at": 4}
    assert stockpot("add", run, write(tmp_path / "task.yaml", recipe["tasks"][1]), root=run, fault=fault).code == -9
    assert stockpot("resume", run, root=run).code == 0
    same(run, whole.run)

    folder = run / "tasks" / "02-two" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(kinds))
    right = [
        model.config.id2label[int(model(**tokenizer(f"> {row['text']}", return_tensors="pt")).logits.argmax())]
        == row["kind"]
        for row in rows
    ]
    old, new = (
        [hit for hit, row in zip(right, rows, strict=True) if row["kind"] in some] for some in (kinds[:2], kinds[2:])
    )
    assert results(run)["scores"]["accuracy"]["matrix"][-1] == [sum(old) / len(old), sum(new) / len(new)]
    assert "AutoModelForSequenceClassification" in (folder / "README.md").read_text()
