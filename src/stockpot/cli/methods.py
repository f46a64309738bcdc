"""`stockpot methods`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.console import note, say
from stockpot.cli.descriptions import print_description
from stockpot.cli.json_document import Json, one_document
from stockpot.errors import StockpotError

if TYPE_CHECKING:
    from stockpot.methods.base import Method


def methods_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="one method, also package.module:Class; default: all")
    ] = None,
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
    """The method of this name; for None all of them, those of installed packages last."""
    from stockpot.methods import find_method, known_names

    if name is not None:
        return {name: find_method(name, "")}
    methods = {}
    for known in known_names():
        try:
            methods[known] = find_method(known, "")
        except StockpotError as error:  # a package that does not work leaves the others on the list
            note(str(error))
    return methods


def _origin(name: str) -> str:
    """Where a method comes from; "" for Stockpot's own."""
    from stockpot.methods import GROUP, registry
    from stockpot.plugins import package_of, registered

    if name in registry():
        return ""
    entry = registered(GROUP).get(name)
    return name if entry is None else f"{package_of(entry)}, {entry.value}"


def _parameters(method: type[Method[Any]]) -> list[tuple[str, Any, str]]:
    """Each parameter with its default and what it is."""
    fields = method.config_type.model_fields.items()
    return [(field, info.default, info.description or "") for field, info in fields if field not in ("name", "label")]


def _describe_methods(name: str | None) -> None:
    for key, method in _chosen_methods(name).items():
        origin = _origin(key)
        come = f"From: {origin}" if origin else ""
        print_description(key, inspect.cleandoc(method.__doc__ or ""), _parameters(method), come)


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
                **({"from": origin} if (origin := _origin(key)) else {}),
                "summary": section.pop(""),
                **{word.lower(): text for word, text in section.items()},
                "parameters": [
                    {"name": parameter, "default": default, "description": meaning}
                    for parameter, default, meaning in _parameters(method)
                ],
            }
        )
    return facts
