"""One name, one thing: what the source of the package must keep to."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "stockpot"

# Public names that two modules may define, and why.
TWICE: dict[str, str] = {
    "main": "what a process starts with: `stockpot`, and the worker that a comparison starts",
}
# Modules of one name in several rooms, and why.
TWICE_MODULES: dict[str, str] = {
    "__init__": "every package has one",
    "base": "what the files of a folder of plug-ins (methods, scores) are derived from",
    "dare": "a merge rule, and the method that merges with it after each task",
    "fisher": "the estimate of a Fisher, and the merge rule that weighs with it",
    "magmax": "a merge rule, and the method that merges with it after each task",
    "schema": "the models of a recipe, and the command that prints their schema",
    "sfa": "the average itself, and the method that makes it in a run",
    "spec": "the block of a recipe that belongs to the room",
    "task_arithmetic": "a merge rule, and the method that merges with it after each task",
    "ties": "a merge rule, and the method that merges with it after each task",
    "whatif": "the sweeps, and the command that runs them",
}
# Words that say nothing about what they hold.
VAGUE = {"one", "own", "found", "told", "held", "asked"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(SOURCE.rglob("*.py")):
        yield file.relative_to(SOURCE).with_suffix("").as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def bindings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that are given to something, and their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield (node.id if isinstance(node, ast.Name) else node.attr), node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno


def public(tree: ast.Module) -> set[str]:
    """Classes, functions and constants of a module's top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_a_public_name_is_defined_in_one_module() -> None:
    homes = defaultdict(list)
    for module, tree in trees():
        for name in public(tree):
            homes[name].append(module)
    twice = {name: modules for name, modules in homes.items() if len(modules) > 1}
    assert {name: modules for name, modules in twice.items() if name not in TWICE} == {}
    assert TWICE.keys() <= twice.keys(), "take off the list what is defined once by now"


def test_a_module_has_a_name_of_its_own() -> None:
    homes = defaultdict(list)
    for module, _ in trees():
        homes[module.rpartition("/")[2]].append(module)
    twice = {name: modules for name, modules in homes.items() if len(modules) > 1}
    assert {name: modules for name, modules in twice.items() if name not in TWICE_MODULES} == {}
    assert TWICE_MODULES.keys() <= twice.keys(), "take off the list what exists once by now"


def test_a_binding_says_what_it_holds() -> None:
    vague = [
        f"{module}.py:{line}: {name}" for module, tree in trees() for name, line in bindings(tree) if name in VAGUE
    ]
    assert vague == []
