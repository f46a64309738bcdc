"""The page of all methods, made of their docstrings and configs."""

from __future__ import annotations

from typing import Any

from stockpot.markdown import code_span, escape_markdown
from stockpot.methods import registry
from stockpot.methods.base import Method
from stockpot.methods.declare.docstring import SECTIONS, sections

INTRODUCTION = """\
# Methods

Made from the code by `make docs`; `stockpot methods NAME` prints one method. θ are the weights, θ_o the anchor, θ_0 the
start model, τ a task vector, T the optimizer steps of a task. `beta` weighs the anchor; the λ of a penalty is called
`strength`, that of task vectors `scale`. Every method resumes exactly, and works in the Trainer and in the plain loop.
"""


def methods_page() -> str:
    """The page in Markdown: a table of all methods, then a section for each."""
    parts = [INTRODUCTION, "| method | what it does | what stays between tasks |\n|---|---|---|"]
    parts[-1] += "".join(
        f"\n| [{name}](#{name}) | {section['']} | {section['Kept']} |"
        for name, section in ((name, sections(method.__doc__)) for name, method in registry().items())
    )
    parts += [_section(name, method) for name, method in registry().items()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(name: str, method: type[Method[Any]]) -> str:
    section = sections(method.__doc__)
    lines = [f"## {name}", "", section[""], ""]
    lines += [f"- **{heading}**: {section[word]}" for word, heading in SECTIONS.items() if word in section]
    fields = {
        field: info
        for field, info in method.config_type.model_fields.items()
        if field not in ("name", "label", "train")
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
