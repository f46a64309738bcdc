"""Links of the pages work in the repository and in the site: what they name outside docs/ is put into the site."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
OUTSIDE = ("benchmarks/evidence/**/*", "recipes/*.yaml", "examples/by_feature/*", "CONTRIBUTING.md", "CHANGELOG.md")
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the evidence, the recipes and the examples, at their own places."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                place = path.relative_to(ROOT).as_posix()
                kept_out = InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, place, abs_src_path=str(path), inclusion=kept_out))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrites links between docs/ and what lies outside it: in the site docs/ is the root."""
    source = Path(page.file.abs_src_path).parent.relative_to(ROOT).as_posix()
    here = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(source, link["path"]))
        if not (ROOT / target).exists():
            return link[0]
        if (ROOT / target).is_dir():  # a folder has no page
            first = min((ROOT / target).glob("*"))
            target = first.relative_to(ROOT).as_posix()
        return os.path.relpath(target.removeprefix("docs/"), here or ".") + (link["anchor"] or "")

    return _LINK.sub(moved, markdown)
