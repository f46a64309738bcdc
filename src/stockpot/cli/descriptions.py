"""How `stockpot methods` and `stockpot rules` describe one method or rule."""

from __future__ import annotations

from collections.abc import Iterable

from stockpot.cli.console import console


def print_description(
    name: str, doc: str, parameters: Iterable[tuple[str, object, str]], requirements: str = ""
) -> None:
    """Prints a name, the lines of its docstring, what it requires, and each parameter with default and meaning."""
    from rich.markup import escape

    terminal = console()
    terminal.print(f"[bold]{name}[/bold]")
    for line in doc.splitlines():
        if line:
            terminal.print(f"  {escape(line)}")
    if requirements:
        terminal.print(f"    {requirements}")
    for parameter, default, meaning in parameters:
        value = "" if default is None else f" = {default}"
        terminal.print(f"    [cyan]{parameter}[/cyan]{escape(value)}  {escape(meaning)}")
    terminal.print()
