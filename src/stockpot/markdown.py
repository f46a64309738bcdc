"""Markdown from text that comes from elsewhere: for model cards."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence


def escape_markdown(text: str) -> str:
    """Text that Markdown and HTML read as it stands, on one line."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code_span(value: object) -> str:
    """What may stand between two backticks."""
    return " ".join(str(value).replace("`", "'").split())


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts."""
    cells = [[escape_markdown(cell) for cell in row] for row in (headings, *rows)]
    lines = [cells[0], ["---"] * len(headings), *cells[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code_block(text: str, language: str) -> str:
    """A block of code, in a fence longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"{fence}{language}\n{text}{fence}"
