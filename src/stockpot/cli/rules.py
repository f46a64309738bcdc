"""`stockpot rules`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.descriptions import print_description

if TYPE_CHECKING:
    from stockpot.merging.rule import Rule


def rules_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one rule; default: all of them")] = None,
) -> None:
    """List the merge rules: equation, models, parameters."""
    from stockpot.merging.greedy_soup import greedy_soup
    from stockpot.merging.rules import RULES
    from stockpot.merging.spec.spec_values import one_of

    one_of("a rule", name or "linear", [*RULES, "greedy_soup"])
    for key, rule in RULES.items():
        if name in (None, key):
            _print_rule(key, rule)
    if name in (None, "greedy_soup"):
        print_description("greedy_soup", inspect.cleandoc(greedy_soup.__doc__ or ""), ())


def _print_rule(name: str, rule: Rule) -> None:
    most = "" if rule.most == rule.least else " or more" if rule.most is None else f" to {rule.most}"
    base = "needs --base" if rule.base == "required" else "a base is allowed"
    parameters = [
        (
            parameter.name,
            None if parameter.default is None else str(parameter.default).lower(),
            f"{parameter.help}{' (one for each model, or for all)' if parameter.each else ''}",
        )
        for parameter in rule.parameters
    ]
    print_description(name, rule.doc, parameters, f"{rule.least}{most} model{'' if rule.most == 1 else 's'}, {base}")
