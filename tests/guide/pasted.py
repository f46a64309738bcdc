"""Runs a page's blocks of code in their order, as a reader who pastes them does.

| block | what happens |
|---|---|
| `python` | executed; the blocks of a page share their variables |
| `bash` | each `stockpot …` is run, in this process, and has to succeed |
| any with `title="NAME.EXT"` | written to that file |
| `yaml` without a title | has to be part of a recipe: checked, not run |
| any with `title="needs …"` or `title="takes …"` | not run, and the title says why |
| any other language, `sh` among them for what is not Stockpot's | only shown |
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from stockpot.cli import main
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.yaml_text import parse_yaml

_INFO = re.compile(r"(?P<language>[\w-]+)(?P<options>[^\n]*)$\n", re.MULTILINE)
_TITLE = re.compile(r'\btitle="(?P<title>[^"]*)"')
_FILE = re.compile(r"[\w./-]+\.\w+")
_DIGITS = {
    "model": {"build": "stockpot.models.networks:mlp", "args": {"inputs": 64}},
    "data": {"path": "digits"},
    "tasks": {"split": 5},
}
_run_python = PythonEvaluator()


def examples(page: Path) -> Iterator[Example]:
    """The page's blocks that do something, in their order."""
    sybil = Sybil([_parse], encoding="utf-8")
    yield from sybil.parse(page).examples()


def _parse(document: Document) -> Iterable[Region]:
    for block in RawFencedCodeBlockLexer(_INFO)(document):
        found = _TITLE.search(block.lexemes["options"])
        run = _evaluator(block.lexemes["language"], found["title"] if found else "")
        if run is not None:
            yield Region(block.start, block.end, parsed=block.lexemes["source"], evaluator=run)


def _evaluator(language: str, title: str) -> Any:
    if _FILE.fullmatch(title):
        return lambda example: _write(Path(title), example.parsed)
    if title.startswith(("needs ", "takes ")):
        return None
    return {"python": _run_python, "bash": _run_commands, "yaml": _check_recipe}.get(language)


def _write(path: Path, text: str) -> None:
    assert not path.is_absolute() and ".." not in path.parts, path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _run_commands(example: Example) -> None:
    for line in example.parsed.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "stockpot", (
            f'{example.path}:{example.line}: what does {words[0]} need? Say title="needs …", or use sh.'
        )
        try:
            main(words[1:])
        except SystemExit as ended:
            assert not ended.code, f"{example.path}:{example.line}: {line!r} ended with {ended.code}"


def _check_recipe(example: Example) -> None:
    values = parse_yaml(example.parsed, f"{example.path}:{example.line}")
    validate(Recipe, {**_DIGITS, **values}, f"{example.path}:{example.line}")
