"""`stockpot init`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.console import say
from stockpot.errors import StockpotError, did_you_mean

# Jobs → the path of data and the model that their recipes name, which options replace.
JOBS = {
    "chat": ("chats.jsonl", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    "text": ("texts", "HuggingFaceTB/SmolLM2-135M"),
    "image": ("digits", None),
    "vision-folder": ("pictures", "google/vit-base-patch16-224-in21k"),
    "lora": ("chats.jsonl", "Qwen/Qwen2.5-7B-Instruct"),
}


def init_command(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="where to write it")] = Path("recipe.yaml"),
    job: Annotated[
        str | None, typer.Option("--for", metavar="JOB", help=f"what it is for: {', '.join(JOBS)}; default: a tour")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="PATH", help="your data, with --for")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="your model, with --for")] = None,
) -> None:
    """Write a commented recipe for a job."""
    if path.exists():
        raise StockpotError(f"{path} exists already; choose another file: stockpot init FILE.")
    if not path.parent.is_dir():
        raise StockpotError(f"{path.parent}: there is no such folder.")
    path.write_text(_recipe(job, data, model), encoding="utf-8")
    say(f"Wrote {path}. Next: stockpot check {path}, then stockpot run {path}")


def _recipe(job: str | None, data: str | None, model: str | None) -> str:
    home = files("stockpot.recipe")
    if job is None:
        if data is not None or model is not None:
            raise StockpotError(f"--data and --model need --for, which is one of {', '.join(JOBS)}.")
        return home.joinpath("starter.yaml").read_text(encoding="utf-8")
    if job not in JOBS:
        raise StockpotError(f"--for: there is no job {job!r}.{did_you_mean(job, JOBS)} Known: {', '.join(JOBS)}.")
    text = home.joinpath("starters", f"{job}.yaml").read_text(encoding="utf-8")
    known_data, known_model = JOBS[job]
    if data is not None:
        text = text.replace(f"path: {known_data}}}", f"path: {_quoted(data)}}}")
    if model is not None:
        if known_model is None:
            raise StockpotError(f"--model: the recipe for {job} runs as it is; edit its `model` for another.")
        text = text.replace(f"name: {known_model}", f"name: {_quoted(model)}")
    return text


def _quoted(value: str) -> str:
    """A text as YAML reads it back inside braces."""
    plain = all(letter.isalnum() or letter in "/._-~" for letter in value) and value[:1] not in "-~"
    return value if plain else "'" + value.replace("'", "''") + "'"
