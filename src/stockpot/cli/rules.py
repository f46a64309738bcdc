"""`stockpot rules`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.descriptions import print_description
from stockpot.cli.json_document import Json, one_document

if TYPE_CHECKING:
    from stockpot.merging.rule import Rule


def rules_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one rule; default: all of them")] = None,
    as_json: Json = False,
) -> None:
    """List the merge rules: equation, models, parameters."""
    from stockpot.merging.greedy_soup import greedy_soup
    from stockpot.merging.rules import RULES
    from stockpot.merging.spec.spec_values import one_of

    one_of("a rule", name or "linear", [*RULES, "greedy_soup"])
    rules = {key: rule for key, rule in RULES.items() if name in (None, key)}
    soup = inspect.cleandoc(greedy_soup.__doc__ or "") if name in (None, "greedy_soup") else ""
    if as_json:
        with one_document(wanted=True) as hand_over:
            facts = [_facts_of_rule(key, rule) for key, rule in rules.items()]
            hand_over([*facts, *([{"name": "greedy_soup", "description": soup}] if soup else [])])
        return
    for key, rule in rules.items():
        _print_rule(key, rule)
    if soup:
        print_description("greedy_soup", soup, ())


def _facts_of_rule(name: str, rule: Rule) -> dict[str, Any]:
    return {
        "name": name,
        "description": rule.doc,
        "fewest_models": rule.least,
        "most_models": rule.most,
        "base": rule.base,
        "parameters": [
            {"name": p.name, "default": p.default, "description": p.help, "for_each_model": p.each}
            for p in rule.parameters
        ],
    }


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
