"""A page that would ask the network for something ends the build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\ssrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon|modulepreload|dns-prefetch))"""
    r"""[^>]*\shref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:@import|url\()\s*["']?(?:https?:)?//[^"'\s)]+""",
    re.IGNORECASE,
)


def on_post_build(config: Any) -> None:
    """Looks for what a browser loads by itself, in every page and style sheet."""
    site = Path(config["site_dir"])
    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        if found := _LOADED.search(file.read_text(encoding="utf-8")):
            raise PluginError(f"{file.relative_to(site)} loads something from the network: {found[0][:200]}")
