"""What the build of the guide adds to MkDocs: links that hold in the repository and in the site, and no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site_hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("file", "link", "in_the_site"),
    [
        ("docs/findings.md", "../benchmarks/evidence/auto.md#found", "benchmarks/evidence/auto.md#found"),
        ("benchmarks/evidence/auto.md", "../../docs/beta.md", "../../beta.md"),
        ("benchmarks/evidence/auto.md", "auto.json", "auto.json"),
        ("docs/loop.md", "beta.md#the-rule", "beta.md#the-rule"),
        ("docs/loop.md", "https://arxiv.org/abs/2501.05559", "https://arxiv.org/abs/2501.05559"),
        ("docs/loop.md", "missing.md", "missing.md"),  # left to MkDocs, which refuses it
        ("CONTRIBUTING.md", "README.md", "README.md"),
    ],
)
def test_a_link_holds_in_the_repository_and_in_the_site(file: str, link: str, in_the_site: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(ROOT / file), src_uri=file.removeprefix("docs/")))
    changed = hook("links").on_page_markdown(f"see [it]({link}).", page, None, None)
    assert changed == f"see [it]({in_the_site})."


@pytest.mark.parametrize(
    ("text", "loads"),
    [
        ('<script defer src="https://unpkg.com/x"></script>', True),
        ('<link href="//fonts.gstatic.com" rel="preconnect">', True),
        ('<img alt="a" src=http://example.org/a.png>', True),
        ("@import url(https://fonts.googleapis.com/css)", True),
        ('<a href="https://arxiv.org/abs/2501.05559">the paper</a>', False),
        ('<link rel="canonical" href="https://example.org/">', False),
        ('<script src="assets/bundle.js"></script>', False),
    ],
)
def test_a_page_that_loads_from_the_network_ends_the_build(text: str, loads: bool, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    after_build = hook("no_network").on_post_build
    if loads:
        with pytest.raises(PluginError, match=r"page\.html loads something from the network"):
            after_build({"site_dir": str(tmp_path)})
    else:
        after_build({"site_dir": str(tmp_path)})
