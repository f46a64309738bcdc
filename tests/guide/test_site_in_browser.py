"""The built guide in a browser, from the disk: no script fails, nothing is fetched, pages fit a telephone, and it
searches."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from browser import launched_chromium

ROOT = Path(__file__).parents[2]
PAGES = sorted(page.stem for page in (ROOT / "docs").glob("*.md"))

pytestmark = pytest.mark.thorough  # building the site takes seconds; `make docs` does that, too


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    run(build, cwd=ROOT, check=True, timeout=300, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[Any]:
    """A page of Chromium whose `wrong` and `requests` list what its scripts said, and what was loaded."""
    with launched_chromium() as chromium:
        opened: Any = chromium.new_page()
        opened.wrong, opened.requests = [], []
        opened.on("console", lambda message: opened.wrong.append(message.text))
        opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
        opened.on("request", lambda request: opened.requests.append(request.url))
        yield opened


def test_every_page_fits_fails_nowhere_and_loads_nothing_from_the_network(page: Any, site: Path) -> None:
    too_wide = []
    for width in (1280, 500):
        page.set_viewport_size({"width": width, "height": 900})
        for name in PAGES:
            page.goto((site / f"{name}.html").as_uri())
            if page.evaluate("document.documentElement.scrollWidth") > width:
                too_wide.append((name, width))
    assert too_wide == []
    assert page.wrong == []
    assert page.requests and all(url.startswith((site.as_uri(), "data:")) for url in page.requests)


def test_the_search_works_from_the_disk(page: Any, site: Path) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{(site / 'index.html').as_uri()}?q=LLaMA-Factory")
    page.wait_for_selector(".md-search-result__item a", timeout=15_000)
    found = page.eval_on_selector_all(".md-search-result__item a", "links => links.map(link => link.href)")
    assert any("trainers.html" in link for link in found)
