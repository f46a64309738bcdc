"""`stockpot rules`."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from stockpot.cli.console import console


def rules_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one rule; default: all of them")] = None,
) -> None:
    """List the merge rules: equation, models, parameters."""
    from rich.markup import escape

    from stockpot.merging.greedy_soup import greedy_soup
    from stockpot.merging.rules import RULES
    from stockpot.merging.spec.spec_values import one_of

    known = [*RULES, "greedy_soup"]
    one_of("a rule", name or "linear", known)
    terminal = console()
    for key in known:
        if name not in (None, key):
            continue
        rule = RULES.get(key)
        doc = rule.doc if rule else inspect.cleandoc(greedy_soup.__doc__ or "")
        terminal.print(f"[bold]{key}[/bold]")
        for line in doc.splitlines():
            if line:
                terminal.print(f"  {escape(line)}")
        if rule is not None:
            most = "" if rule.most == rule.least else " or more" if rule.most is None else f" to {rule.most}"
            needs = "needs --base" if rule.base == "required" else "a base is allowed"
            terminal.print(f"    {rule.least}{most} model{'' if rule.most == 1 else 's'}, {needs}")
        for parameter in rule.parameters if rule else ():
            default = "" if parameter.default is None else f" = {str(parameter.default).lower()}"
            each = " (one for each model, or for all)" if parameter.each else ""
            terminal.print(f"    [cyan]{parameter.name}[/cyan]{escape(default)}  {escape(parameter.help)}{each}")
        terminal.print()
