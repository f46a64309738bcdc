"""The code of the guide runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pasted
import pytest

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page for page in sorted((ROOT / "docs").glob("*.md"))}
PAGES = {name: page for name, page in PAGES.items() if list(pasted.examples(page))}
THOROUGH: set[str] = set()  # what their blocks show is tested elsewhere, in less time


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in THOROUGH else name for name in PAGES]
)
def test_a_page_runs_as_pasted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_pictures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for example in pasted.examples(PAGES[name]):
        example.evaluate()
