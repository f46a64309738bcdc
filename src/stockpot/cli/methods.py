"""`stockpot methods`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.console import say
from stockpot.cli.descriptions import print_description
from stockpot.cli.json_document import Json, one_document
from stockpot.errors import StockpotError, did_you_mean

if TYPE_CHECKING:
    from stockpot.methods.base import Method


def methods_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one method; default: all of them")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="all of them as a page, docs/methods.md")] = False,
    as_json: Json = False,
) -> None:
    """List the methods: equation, parameters, defaults."""
    if markdown and as_json:
        raise StockpotError("--markdown and --json are two forms; give one of them.")
    if as_json:
        with one_document(wanted=True) as hand_over:
            hand_over(_facts_of_methods(name))
    elif markdown:
        from stockpot.cli.methods_page import methods_page

        say(methods_page().removesuffix("\n"))
    else:
        _describe_methods(name)


def _chosen_methods(name: str | None) -> dict[str, type[Method[Any]]]:
    """The method of this name; all of them for None."""
    from stockpot.methods import registry

    known = registry()
    if name is not None and name not in known:
        raise StockpotError(f"there is no method {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return {key: method for key, method in known.items() if name in (None, key)}


def _parameters(method: type[Method[Any]]) -> list[tuple[str, Any, str]]:
    """Each parameter with its default and what it is."""
    fields = method.config_type.model_fields.items()
    return [(field, info.default, info.description or "") for field, info in fields if field not in ("name", "label")]


def _describe_methods(name: str | None) -> None:
    for key, method in _chosen_methods(name).items():
        print_description(key, inspect.cleandoc(method.__doc__ or ""), _parameters(method))


def _facts_of_methods(name: str | None) -> list[dict[str, Any]]:
    from stockpot.methods.declare.docstring import sections

    facts = []
    for key, method in _chosen_methods(name).items():
        section = sections(method.__doc__)
        facts.append(
            {
                "name": key,
                "title": method.title,
                "role": method.role,
                "summary": section.pop(""),
                **{word.lower(): text for word, text in section.items()},
                "parameters": [
                    {"name": parameter, "default": default, "description": meaning}
                    for parameter, default, meaning in _parameters(method)
                ],
            }
        )
    return facts
