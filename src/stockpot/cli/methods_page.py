"""The page about all methods, made of their docstrings: `stockpot methods --markdown > docs/methods.md`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from stockpot.markdown import code_span, escape_markdown
from stockpot.methods import REGISTRY, Entry

# What a method's docstring says after its first lines, in the order of the page, with the heading there.
SECTIONS = {
    "Equation": "Equation",
    "Paper": "Paper",
    "Cost": "Cost of a step",
    "Kept": "Kept between tasks",
    "Use": "When to use it",
    "Reading": "Our reading",
}
_TAG = re.compile(rf"^({'|'.join(SECTIONS)}): ")

INTRODUCTION = """\
# Methods

Made by `stockpot methods --markdown > docs/methods.md` from the code; `stockpot methods NAME` prints one. θ are the
weights, θ_o the anchor, θ_0 the start model, τ a task vector, T the optimizer steps of a task. `beta` weighs the
anchor; the λ of a penalty is called `strength`, that of task vectors `scale`. Every method resumes exactly, and
works in the Trainer and in the plain loop.
"""


def sections(docstring: str) -> dict[str, str]:
    """The docstring's lines by the word that they begin with; "" for those before any such word."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if tag := _TAG.match(line):
            current = tag[1]
            line = line[tag.end() :]  # noqa: PLW2901
        found.setdefault(current, []).append(line.strip())
    return {name: " ".join(lines).strip() for name, lines in found.items()}


def page(registry: Mapping[str, Entry] = REGISTRY) -> str:
    """The page in Markdown: a table of all methods, then a section for each."""
    parts = [INTRODUCTION, "| method | what stays between tasks | a step costs |\n|---|---|---|"]
    parts[-1] += "".join(
        f"\n| [{name}](#{name}) | {told.get('Kept', '')} | {told.get('Cost', '')} |"
        for name, told in ((name, sections(entry.method.__doc__ or "")) for name, entry in registry.items())
    )
    parts += [_section(name, entry) for name, entry in registry.items()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(name: str, entry: Entry) -> str:
    told = sections(entry.method.__doc__ or "")
    lines = [f"## {name}", "", told[""], ""]
    lines += [f"- **{heading}**: {told[tag]}" for tag, heading in SECTIONS.items() if tag in told]
    fields = {
        field: info for field, info in entry.config.model_fields.items() if field not in ("name", "label", "train")
    }
    if fields:
        lines += ["", "| parameter | default | what it is |", "|---|---|---|"]
        lines += [
            f"| `{field}` | {_default(info)} | {escape_markdown(info.description or '')} |"
            for field, info in fields.items()
        ]
    return "\n".join(lines)


def _default(info: Any) -> str:
    return "" if info.default is None else f"`{code_span(info.default)}`"
