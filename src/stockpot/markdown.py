"""Markdown that is safe to build from untrusted text, for model cards."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence


def escape_markdown(text: str) -> str:
    """The text on one line, escaped so that Markdown and HTML show it as it is."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code_span(value: object) -> str:
    """The text for a code span, without its backticks."""
    return " ".join(str(value).replace("`", "'").split())


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are escaped."""
    cells = [[escape_markdown(cell) for cell in row] for row in (headings, *rows)]
    lines = [cells[0], ["---"] * len(headings), *cells[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code_block(text: str, language: str) -> str:
    """A code block, in a fence longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"{fence}{language}\n{text}{fence}"
