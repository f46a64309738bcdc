"""docs/methods.md and docs/schema are what `make docs` would write."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_documents_that_are_made_from_the_code_are_those_of_the_code() -> None:
    documents = runpy.run_path(str(ROOT / "docs" / "make.py"))["documents"]()
    assert {path.name for path in documents} >= {"methods.md", "recipe.schema.json", "whatif.schema.json"}
    stale = [str(path.relative_to(ROOT)) for path, text in documents.items() if path.read_text("utf-8") != text]
    assert not stale, f"run `make docs`: {stale}"
