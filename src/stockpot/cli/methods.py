"""`stockpot methods`."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from stockpot.cli.console import console, say
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
    from rich.markup import escape

    from stockpot.methods import registry

    known = registry()
    if name is not None and name not in known:
        raise StockpotError(f"there is no method {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    terminal = console()
    for key, method in known.items():
        if name not in (None, key):
            continue
        terminal.print(f"[bold]{key}[/bold]")
        for line in inspect.cleandoc(method.__doc__ or "").splitlines():
            if line:
                terminal.print(f"  {escape(line)}")
        fields = {
            field: info for field, info in method.config_type.model_fields.items() if field not in ("name", "label")
        }
        for field, info in fields.items():
            default = "" if info.default is None else f" = {info.default}"
            terminal.print(f"    [cyan]{field}[/cyan]{escape(default)}  {escape(info.description or '')}")
        terminal.print()
