"""Writes what is made from the code: docs/methods.md, docs/recipe.md and docs/schema. For `make docs`."""

from __future__ import annotations

import json
from pathlib import Path

from stockpot.cli.methods_page import methods_page
from stockpot.cli.recipe_page import recipe_page
from stockpot.cli.schema import schema_of

ROOT = Path(__file__).parents[1]


def documents() -> dict[Path, str]:
    """Every file and its text."""
    texts = {ROOT / "docs" / "methods.md": methods_page(), ROOT / "docs" / "recipe.md": recipe_page()}
    for file in sorted((ROOT / "docs" / "schema").glob("*.schema.json")):
        texts[file] = json.dumps(schema_of(file.name.removesuffix(".schema.json")), indent=2) + "\n"
    return texts


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
