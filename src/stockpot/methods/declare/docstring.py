"""A method's docstring by its sections: what `stockpot methods` and docs/methods.md are made of."""

from __future__ import annotations

import inspect
import re

# The words that a section starts with, in the order of docs/methods.md, with their headings there.
SECTIONS = {
    "Equation": "Equation",
    "Paper": "Paper",
    "Cost": "Cost of a step",
    "Kept": "Kept between tasks",
    "Use": "When to use it",
    "Reading": "Our reading",
}
REQUIRED = ("Equation", "Cost", "Kept", "Use")
_TAG = re.compile(rf"^({'|'.join(SECTIONS)}): ")


def sections(docstring: str | None) -> dict[str, str]:
    """The text of each section by its word, which starts a line; "" for the lines before the first."""
    lines_of: dict[str, list[str]] = {"": []}
    section = ""
    for line in inspect.cleandoc(docstring or "").splitlines():
        text = line
        if tag := _TAG.match(line):
            section, text = tag[1], line[tag.end() :]
        lines_of.setdefault(section, []).append(text.strip())
    return {word: " ".join(lines).strip() for word, lines in lines_of.items()}
