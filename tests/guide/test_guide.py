"""The code of the guide and of README runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pasted
import pytest
from stand_ins import make_stand_ins

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
PAGES = {name: page for name, page in PAGES.items() if list(pasted.examples(page))}
# What the blocks of these show is tested elsewhere, in less time.
THOROUGH = {"kinds", "adapters", "chat", "comparing", "lora", "hub", "notebook", "stream", "trainers"}


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages name on the hub, in folders of the same names; tests must not change it."""
    folder = tmp_path_factory.mktemp("hub")
    make_stand_ins(folder)
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in THOROUGH else name for name in PAGES]
)
def test_a_page_runs_as_pasted(
    name: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_pictures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for folder in hub.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    for example in pasted.examples(PAGES[name]):
        example.evaluate()
