"""`stockpot check` and `stockpot init --for`, as a user calls them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import stockpot as package
from stockpot.cli.init import JOBS

GPT2 = "{model_type: gpt2, n_embd: 8, n_head: 1, n_layer: 1, n_positions: 64}"
TEMPLATE = (
    "'{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}'"
)
Command = Callable[..., Any]


def test_a_check_is_printed_in_words_or_as_json_and_problems_end_it_with_2(
    stockpot: Command, write_yaml: Callable[..., Path], digits_recipe: dict[str, Any]
) -> None:
    file = write_yaml(digits_recipe)
    done = stockpot("check", file, "-n", "1")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{file}: 2 tasks, class-incremental, method sfa, model stockpot.models.networks:mlp\n")
    assert "  steps  8: 30 examples an epoch, 2 epochs, 8 a batch; 60 examples in all\n" in done.out
    assert done.out.endswith("Nothing stands in the way of a run. Nothing was trained or written.\n")
    document = json.loads(stockpot("check", file, "--json").out)
    assert (document["ok"], [task["steps"] for task in document["tasks"]]) == (True, [8, 8])
    wrong = stockpot("check", file, "method.bta=1", "train.fp16=true", "--json")
    assert wrong.code == 2
    assert [problem["kind"] for problem in json.loads(wrong.out)["problems"]] == ["error", "error"]
    assert "2 errors: a run would not start." in stockpot("check", file, "method.bta=1", "train.fp16=true").out


def test_a_terminal_of_80_columns_has_colours_and_whole_words(
    stockpot: Command, write_yaml: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "Why? ", "completion": f"Because of {number}."} for number in range(8)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = write_yaml(
        f"model: {{config: {GPT2}, tokenizer: {{train: 300}}}}\n"
        "tasks: [{name: pairs, data: {path: pairs.jsonl}}]\nmethod: {name: sequential}\n"
    ).name
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = stockpot("check", file, "-n", "1").out
    assert "\x1b[2mWhy? \x1b[0m\x1b[1;32mBecause of " in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = stockpot("check", file, "-n", "1").out
    assert "Why? «Because of " in plain
    words = {word for line in plain.splitlines() for word in line.split()}
    paths = [word for word in words if "/" in word]  # one that is longer than a line has to be broken
    shown = "".join(part.split("m", 1)[-1] for part in coloured.split("\x1b["))
    lines = [line for line in shown.splitlines() if "/" not in line]
    assert max(map(len, lines)) <= 80
    others = {word for line in lines for word in line.split()} - {word.strip("«»") for word in words}
    assert {word for word in others if not any(path.endswith(word) for path in paths)} <= {"Because"}


def tiny(job: str, folder: Path, path: Path) -> list[str]:
    """Changes that put a tiny model and data of this test into the recipe for a job."""
    if job == "image":
        return ["train.num_train_epochs=1", "data.limit=4"]
    changes = ["train.bf16=false", "train.use_cpu=true", "train.num_train_epochs=1", "tasks.0.data.test_split=train"]
    if job == "vision-folder":
        vit = "{model_type: vit, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 8"
        tasks = f"[{{name: first, data: {{path: {path}}}}}, {{name: second, data: {{path: {path}, rotate: 30}}}}]"
        return [*changes, f"model={{config: {vit}, image_size: 8, patch_size: 4}}}}", f"tasks={tasks}"]
    more = f", chat_template: {TEMPLATE}" if job != "text" else ""
    lora = ", lora: {r: 2, output: merged}" if job == "lora" else ""
    model = f"model={{config: {GPT2}, tokenizer: {{train: 300}}{more}{lora}}}"
    controls = f"controls=[{{name: general, data: {{path: {folder / 'general.txt'}}}}}]"
    return [*changes, model, controls, "method.first_task=average", "train.gradient_checkpointing=false"]


@pytest.mark.parametrize("job", [pytest.param("chat", marks=pytest.mark.thorough), *sorted({*JOBS} - {"chat"})])
def test_the_recipe_for_a_job_is_checked_and_run(
    job: str, stockpot: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "general.txt").write_text("general words\n" * 6)
    path = tmp_path / {"text": "texts", "vision-folder": "pictures"}.get(job, "chats.jsonl")
    if job == "text":
        path.mkdir()
        for number in range(4):
            (path / f"{number}.txt").write_text(f"a text of {number} words")
    elif job == "vision-folder":
        for kind in ("cat", "dog"):
            (path / kind).mkdir(parents=True)
            for number in range(5):
                Image.new("RGB", (8, 8), (40 * number, 9, 9)).save(path / kind / f"{number}.png")
    else:
        talk = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
        path.write_text(f"{json.dumps({'messages': talk})}\n" * 4)
    options = [] if job == "image" else ["--data", path]
    done = stockpot("init", "--for", job, *options)
    assert done.out == "Wrote recipe.yaml. Next: stockpot check recipe.yaml, then stockpot run recipe.yaml\n"
    changes = tiny(job, tmp_path, path)
    checked = package.check("recipe.yaml", changes)
    assert checked.ok, str(checked)
    run = package.run("recipe.yaml", changes, output="run", progress=False)
    steps = [cost.steps for cost in run.results.task_costs]
    assert steps == [task.steps for task in checked.tasks]


def test_a_job_that_is_not_known_is_one_line_and_options_go_with_a_job(stockpot: Command, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    assert (
        "there is no job 'chats'. Did you mean 'chat'? Known: chat, text, image"
        in stockpot("init", file, "--for", "chats").err
    )
    assert "--data and --model need --for" in stockpot("init", file, "--data", "x").err
    assert not file.exists()
    stockpot("init", file, "--for", "chat", "--data", "it's here.jsonl", "--model", "me/mine")
    text = file.read_text()
    assert "{path: 'it''s here.jsonl'}" in text
    assert "name: me/mine}" in text
