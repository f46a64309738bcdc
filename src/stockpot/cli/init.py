"""`stockpot init`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.console import say
from stockpot.errors import StockpotError


def init_command(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="where to write it")] = Path("recipe.yaml"),
) -> None:
    """Write a commented starter recipe."""
    if path.exists():
        raise StockpotError(f"{path} exists already; choose another file: stockpot init FILE.")
    if not path.parent.is_dir():
        raise StockpotError(f"{path.parent}: there is no such folder.")
    text = files("stockpot.recipe").joinpath("starter.yaml").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    say(f"Wrote {path}. Next: stockpot run {path}")
