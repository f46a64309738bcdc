"""YAML as users write it: numbers like 1e-4, no key twice, every mistake in one line with its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from stockpot.errors import StockpotError, did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number, and a key that stands twice is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*(?:[eE][-+]?\d+)|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*\.[\d_]*)$"),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str | int) and key in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
        if isinstance(key, str | int):
            seen.add(key)
    loader.flatten_mapping(node)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=deep))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, source: str) -> Any:
    """YAML → Python values; raises StockpotError with `source`, line and column."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise StockpotError(f"{source}:{where} {error.problem or 'not valid YAML'}.") from error
    except yaml.YAMLError as error:
        raise StockpotError(f"{source}: not valid YAML: {str(error).splitlines()[0]}.") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    if not path.is_file():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*.y*ml")])
        raise StockpotError(f"{path}: there is no such file.{near}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StockpotError(f"{path}: not a text file in UTF-8.") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise StockpotError(f"{path}: expected `key: value` lines at the top.")
    return values
