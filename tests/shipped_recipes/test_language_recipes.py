"""The shipped recipes of language run: shrunk, on small real texts, and with a small model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from stockpot.comparisons.cells import prepare
from stockpot.recipe.read import read_recipe, validate
from stockpot.recipe.schema import Recipe
from stockpot.runs.actions import continue_run, create_run
from stockpot.yaml_text import parse_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = (
    "model={config: {model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 2, max_position_embeddings: 512}, tokenizer: {train: 400}}"
)
SHRUNK = ["data.limit=8", "data.max_length=512", "train.max_steps=2", "train.bf16=false", "train.use_cpu=true",
          "evaluation.limit=2", "seeds=[0]", "train.gradient_checkpointing=false"]  # fmt: skip
NAMES = {
    "general": "language/wikitext2", "law": "language/uscode", "math": "language/gsm8k", "code": "language/codetrans",
    "news": "language/concode",
}  # fmt: skip


def local(key: str, name: str, shared_data: Callable[[str], Path]) -> list[str]:
    return [f"{key}.data.path={shared_data(NAMES[name])}", f"{key}.data.name=null"]


@pytest.mark.parametrize("adapter", [[], ["model.lora.r=2"]], ids=["weights", "lora"])
def test_the_small_language_recipe_runs(adapter: list[str], shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    changes = [SMALL, *SHRUNK, "model.tokenizer.train=400", *adapter]
    for number, name in enumerate(("general", "law", "math", "code")):
        changes += local(f"tasks.{number}", name, shared_data)
    changes += [*local("controls.0", "news", shared_data), "controls.0.data.text=nl", "controls.0.data.limit=4"]
    recipe = read_recipe(RECIPES / "law-math-code-tiny.yaml", changes)
    prepare(recipe, tmp_path / "comparison")
    create_run(recipe, recipe.method, 0, tmp_path / "run")
    results = continue_run(tmp_path / "run")
    assert results.primary == "loss"
    assert list(results.scores) == ["loss", "perplexity", "bits_per_byte", "token_accuracy"]
    for title, scores in results.scores.items():
        assert scores.higher_is_better == (title == "token_accuracy")
        assert all(value is not None for row in scores.matrix for value in row)
        assert len(scores.controls["news"]) == 5
    loss, perplexity = (results.scores[title].matrix[-1][-1] for title in ("loss", "perplexity"))
    assert loss is not None
    assert perplexity == pytest.approx(math.exp(loss))
    assert results.costs.averages == 2 * 3
    if adapter:
        assert results.costs.extra_memory_bytes == 0  # no anchor exists
    start, end = (load_file(tmp_path / "run" / "tasks" / place / "model" / "model.safetensors")
                  for place in ("00-start", "04-code"))  # fmt: skip
    assert start.keys() == end.keys()
    folder = tmp_path / "run" / "tasks" / "04-code" / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    written = model.generate(tokenizer("public int", return_tensors="pt").input_ids, max_new_tokens=3, do_sample=False)
    assert written.shape == (1, len(tokenizer("public int").input_ids) + 3)


def test_the_large_language_recipe_runs_with_a_small_model(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    changes = [SMALL, *SHRUNK]
    changes += [f"tasks.{number}.data.limit=8" for number in range(3)]
    for number, name in enumerate(("law", "math", "code")):
        changes += local(f"tasks.{number}", name, shared_data)
    changes += ['tasks.1.data.prompt="Question: {question}"', "tasks.1.data.completion=answer"]
    changes += ["tasks.2.data.prompt=java", "tasks.2.data.completion=cs"]
    changes += [*local("controls.0", "general", shared_data), "controls.0.data.limit=4"]
    recipe = read_recipe(RECIPES / "law-math-code.yaml", changes)
    create_run(recipe, recipe.method, 0, tmp_path / "run")
    results = continue_run(tmp_path / "run")
    assert list(results.scores) == ["loss", "bits_per_byte"]
    assert results.scores["loss"].controls.keys() == {"general"}
    assert results.costs.steps == 2 * 3


def test_one_chat_model_and_one_file_and_what_it_lost(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """One task: the model that comes from a checkpoint is averaged, and the headline tells of the control."""
    from stockpot.models.spec import ModelSpec
    from stockpot.models.start import start_model
    from stockpot.models.store import save_model
    from stockpot.models.tokenizer import train_tokenizer
    from stockpot.report.findings import run_summary

    tokenizer = train_tokenizer(["what is it worth and to whom is it due"] * 9, 300)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    llama = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    spec = ModelSpec(config=llama)
    save_model(start_model(spec, 0, 0, "language", tokenizer), tmp_path / "base", spec, 0)
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [{"messages": [{"role": "user", "content": f"what is {n}"}, {"role": "assistant", "content": f"it is {n}"}]}
            for n in range(20)]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = [
        *SHRUNK[1:],
        f"model.name={tmp_path / 'base'}",
        f"tasks.0.data.path={tmp_path / 'mine.jsonl'}",
        *local("controls.0", "general", shared_data),
        "controls.0.data.limit=4",
        "data.max_length=32",
    ]
    recipe = read_recipe(RECIPES / "one-chat-model.yaml", changes)
    create_run(recipe, recipe.method, 0, tmp_path / "run")
    results = continue_run(tmp_path / "run")
    assert results.method["first_task"] == "average" and results.costs.averages == 2
    assert "general (never trained on) " in run_summary(results)[0]
    assert results.controls["general"].change is not None


def test_the_starter_leads_with_a_recipe_that_can_be_read() -> None:
    text = files("stockpot.recipe").joinpath("starter.yaml").read_text(encoding="utf-8")
    block = text.split("everything below:\n")[1].split("# What follows")[0]
    values = parse_yaml("\n".join(line.removeprefix("#   ") for line in block.splitlines()), "starter")
    recipe = validate(Recipe, values, "starter")
    assert recipe.kind == "language" and [control.name for control in recipe.controls] == ["general"]
    assert recipe.model.origin == "checkpoint"
