"""Writes what is made from the code: docs/methods.md, docs/schema, and README's table of methods. For `make docs`."""

from __future__ import annotations

import json
from pathlib import Path

from stockpot.cli.methods_page import methods_page, methods_table
from stockpot.cli.schema import schema_of

ROOT = Path(__file__).parents[1]
START, END = "<!-- made by `make docs` -->\n", "<!-- end -->\n"


def documents() -> dict[Path, str]:
    """Every file and its text."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    texts = {ROOT / "README.md": before + START + methods_table() + END + after}
    texts[ROOT / "docs" / "methods.md"] = methods_page()
    for file in sorted((ROOT / "docs" / "schema").glob("*.schema.json")):
        texts[file] = json.dumps(schema_of(file.name.removesuffix(".schema.json")), indent=2) + "\n"
    return texts


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
