"""YAML as users write it: 1e-4 is a number, `on` a word, no key appears twice, and mistakes name their line."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from stockpot.errors import StockpotError, did_you_mean
from stockpot.switches import SWITCHES, Switch

MAX_DEPTH = 50  # levels of nesting
MAX_VALUES = 100_000  # values, counting those that aliases repeat
MAX_NUMBER = 2**64  # from here on, an integer cannot be a seed, a size or a count
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_WORD = "!word"
_OCTAL = "!octal"
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
# The meaning of an unquoted scalar, with its possible first letters. YAML 1.1 also reads dates, 1:30 (base 60), `on`.
_READ_AS = (
    (f"{_TAG}bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_WORD, "|".join(f"{word}|{word.title()}|{word.upper()}" for word in SWITCHES), "yYnNoO"),
    (_OCTAL, r"[-+]?0[0-9_]+", "-+0"),
    (f"{_TAG}int", r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", "-+0123456789"),
    (
        f"{_TAG}float",
        r"[-+]?(?:\d[\d_]*\.?[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*\.[\d_]*|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    (f"{_TAG}null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    (_MERGE, r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Composes no deeper than DEEPEST, no mapping with a key twice, and no tag but `!!str`."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as PyYAML has it
    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) not in (None, "!", f"{_TAG}str"):
            raise _wrong(f"the tag {event.tag} is not supported; leave it out", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _wrong(_TOO_DEEP, event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, Any]] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            mark = (key.tag, key.value if key.tag == _MERGE else self.construct_object(key))
            if mark in seen:
                raise _wrong(f"the key {key.value!r} appears twice", key)
            seen.add(mark)
        return node


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that YAML 1.1 or this file would read as something else."""


for _tag, _pattern, _first in _READ_AS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))
_Dumper.add_representer(Switch, lambda dumper, word: dumper.represent_str(str(word)))


def _wrong(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _whole(loader: _Loader, node: ScalarNode) -> int:
    digits = node.value.replace("_", "")
    if len(digits) > 70 or abs(number := int(loader.construct_yaml_int(node))) >= MAX_NUMBER:
        raise _wrong("an integer of more than 64 bits", node)
    return number


def _fraction(loader: _Loader, node: ScalarNode) -> float:
    number = float(loader.construct_yaml_float(node))
    if math.isinf(number) and "inf" not in node.value.lower():
        raise _wrong(f"the number {node.value} is too large", node)
    return number


def _octal(loader: _Loader, node: ScalarNode) -> int:
    raise _wrong(f"a number cannot start with 0: write {node.value.lstrip('0_') or 0}, or '{node.value}'", node)


_Loader.add_constructor(f"{_TAG}int", _whole)
_Loader.add_constructor(f"{_TAG}float", _fraction)
_Loader.add_constructor(_OCTAL, _octal)
_Loader.add_constructor(_WORD, lambda loader, node: Switch(node.value))


def _measure(node: Node, known: dict[Node, tuple[int, int]]) -> tuple[int, int]:
    """(values, depth) of a node, counting an alias as often as it is used; `known` holds nodes already measured."""
    if node not in known:
        known[node] = MAX_VALUES + 1, 0  # for now: a node inside itself is endless
        below = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
        parts = [_measure(part, known) for part in below] if isinstance(node, CollectionNode) else []
        known[node] = 1 + sum(count for count, _ in parts), 1 + max((depth for _, depth in parts), default=0)
        if known[node][0] > MAX_VALUES:
            raise _wrong(f"its aliases expand to more than {MAX_VALUES:,} values".replace(",", " "), node)
        if known[node][1] > MAX_DEPTH:
            raise _wrong(_TOO_DEEP, node)
    return known[node]


def parse_yaml(text: str, source: str) -> Any:
    """YAML → Python values, `on` and the like as `Switch`. Raises StockpotError with `source`, line and column."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise StockpotError(f"{source}:{where} {error.problem or 'not valid YAML'}.") from error
    except yaml.YAMLError as error:
        raise StockpotError(f"{source}: not valid YAML: {str(error).splitlines()[0]}.") from error


def dump_yaml(value: Any, width: int = 100, flow: bool = False) -> str:
    """Plain values as YAML that `parse_yaml` reads back, keys in their order; with `flow` in brackets."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=flow
    )
    return text


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
