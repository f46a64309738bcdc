"""What the commands that only tell do."""

from __future__ import annotations

import inspect
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from stockpot.cli.console import console, say
from stockpot.errors import StockpotError, did_you_mean


def print_methods_page() -> None:
    """All methods as a page of Markdown on stdout."""
    from stockpot.cli.methods_page import page

    say(page().removesuffix("\n"))


def describe_methods(name: str | None) -> None:
    """Every method, or one: what it does, equation, paper, parameters with defaults and meaning."""
    from rich.markup import escape

    from stockpot.methods import REGISTRY

    if name is not None and name not in REGISTRY:
        raise StockpotError(f"there is no method {name!r}.{did_you_mean(name, REGISTRY)} Known: {', '.join(REGISTRY)}.")
    terminal = console()
    for key, (config, method) in REGISTRY.items():
        if name not in (None, key):
            continue
        terminal.print(f"[bold]{key}[/bold]")
        for line in inspect.cleandoc(method.__doc__ or "").splitlines():
            if line:
                terminal.print(f"  {escape(line)}")
        fields = {field: info for field, info in config.model_fields.items() if field not in ("name", "label")}
        for field, info in fields.items():
            default = "" if info.default is None else f" = {info.default}"
            terminal.print(f"    [cyan]{field}[/cyan]{escape(default)}  {escape(info.description or '')}")
        terminal.print()


def write_starter(path: Path) -> None:
    """A recipe with a comment on every line that one may want to change."""
    if path.exists():
        raise StockpotError(f"{path}: a file is there already; name another one: stockpot init FILE.")
    if not path.parent.is_dir():
        raise StockpotError(f"{path.parent}: there is no such folder.")
    text = files("stockpot.recipe").joinpath("starter.yaml").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    say(f"Wrote {path}. Next: stockpot run {path}")


def print_schema(what: str) -> None:
    """A JSON schema on stdout."""
    say(json.dumps(schema_of(what), indent=2))


def schema_of(what: str) -> dict[str, Any]:
    """The JSON schema of recipes, tasks, results or comparisons."""
    from stockpot.recipe.schema import Recipe
    from stockpot.results import Comparison, Results, WhatIf
    from stockpot.streams.spec import TaskSpec

    models: dict[str, Any] = {"recipe": Recipe, "task": TaskSpec, "results": Results, "comparison": Comparison,
                              "whatif": WhatIf}  # fmt: skip
    if what not in models:
        raise StockpotError(f"there is no schema {what!r}.{did_you_mean(what, models)} Known: {', '.join(models)}.")
    schema: dict[str, Any] = models[what].model_json_schema()
    return schema
