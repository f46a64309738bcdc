"""`stockpot methods`."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from stockpot.cli.console import say
from stockpot.cli.descriptions import print_description
from stockpot.errors import StockpotError, did_you_mean


def methods_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one method; default: all of them")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="all of them as a page, docs/methods.md")] = False,
) -> None:
    """List the methods: equation, parameters, defaults."""
    if markdown:
        from stockpot.cli.methods_page import methods_page

        say(methods_page().removesuffix("\n"))
    else:
        _describe_methods(name)


def _describe_methods(name: str | None) -> None:
    from stockpot.methods import registry

    known = registry()
    if name is not None and name not in known:
        raise StockpotError(f"there is no method {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    for key, method in known.items():
        if name in (None, key):
            fields = method.config_type.model_fields.items()
            parameters = [
                (field, info.default, info.description or "")
                for field, info in fields
                if field not in ("name", "label")
            ]
            print_description(key, inspect.cleandoc(method.__doc__ or ""), parameters)
