"""Merge configurations in mergekit's form (YAML), read as they are; what is not supported is an error that names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stockpot.errors import StockpotError, did_you_mean
from stockpot.merging.rule import Parameter, Rule, Value
from stockpot.merging.rules import RULES
from stockpot.merging.spec.merge_spec import Filtered, MergeModel, MergeSpec, Parameters, Setting, Slice, SliceSource
from stockpot.merging.spec.spec_values import dtype_name
from stockpot.switches import read_switches
from stockpot.yaml_text import read_yaml

_Merged = TypeVar("_Merged", MergeModel, SliceSource)

_TOP = (
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "stockpot",
)  # fmt: skip
# Keys of mergekit's that would change the result, and why they are refused.
_REFUSED = {
    "modules": "give models or slices; parts of a model are merged one checkpoint at a time",
    "residual_weight": "mergekit 0.1.5 reads it and does nothing with it: leave it out",
    "tokens": "embeddings are merged row by row as they are",
    "pad_to_multiple_of": "embeddings keep their size",
    "override_architecture": "any architecture is merged, by the names of its tensors: leave it out",
}
# mergekit's names of parameters that have a shorter one here.
_RENAMED = {"nuslerp": {"nuslerp_flatten": "flatten", "nuslerp_row_wise": "row_wise"}}
_SWITCHES = {
    word: word in ("1", "1.0", "true", "t", "yes", "y", "on")
    for word in ("1", "1.0", "true", "t", "yes", "y", "on", "0", "0.0", "false", "f", "no", "n", "off")
}


def read_merge_config(path: Path) -> MergeSpec:
    """The merge that a file describes; see `parse_merge_config`."""
    return parse_merge_config(read_yaml(path), str(path))


def parse_merge_config(values: Mapping[str, Any], source: str) -> MergeSpec:
    """The merge that mergekit's configuration `values` describes, with mergekit's meaning and defaults.

    For a rule of task vectors, and for every other one that needs it, a base that is listed is not merged; slerp goes
    from the base to the other model; a base that linear does not list is merged too. Largest elements are counted by
    tensor. The output has the type `out_dtype`, else `dtype`; the arithmetic is in fp32 whatever `dtype` says. A block
    of our own, `stockpot: {trim, on_missing, seed, defaults}`, says what mergekit has no words for; with
    `defaults: stockpot` models, defaults and trim mean what they do on the command line; so does `stack` in a slice,
    see `Slice`. Raises StockpotError with
    `source` and the key for unknown and unsupported keys and for values of the wrong shape.
    """
    top = _Node(values, source)
    fields = top.fields(_TOP, needed=("merge_method",))
    rule = _rule(fields["merge_method"])
    extra = fields["stockpot"].fields(("trim", "on_missing", "seed", "defaults")) if "stockpot" in fields else {}
    dialect = _choice(extra, "defaults", ("mergekit", "stockpot"))
    base = _model(fields["base_model"]) if "base_model" in fields else None
    shared = _parameters(fields, rule)
    reader = _Reader(rule, base, shared, dialect == "mergekit")
    forms = [key for key in ("models", "slices") if key in fields and fields[key].value != []]
    if len(forms) != 1:
        raise top.wrong("give exactly one of models and slices.")
    # A dtype that another one overrules is still read: a mistake in it is one.
    types = {key: _dtype(fields[key]) for key in ("dtype", "out_dtype") if key in fields}
    return MergeSpec(
        rule=rule.name,
        models=reader.models(fields["models"]) if forms == ["models"] else (),
        base=base,
        parameters=shared,
        slices=reader.slices(fields["slices"]) if forms == ["slices"] else (),
        dtype=types.get("out_dtype", types.get("dtype")),
        trim=_choice(extra, "trim", ("tensor", "model") if dialect == "mergekit" else ("model", "tensor")),
        on_missing=_choice(extra, "on_missing", ("error", "base", "skip")),
        seed=extra["seed"].integer() if "seed" in extra else 0,
        tokenizer=_tokenizer(top, fields),
        chat_template=fields["chat_template"].text() if "chat_template" in fields else None,
        dialect=dialect,
    )


@dataclass(frozen=True)
class _Node:
    """A value of a configuration, and where in it it stands."""

    value: Any
    source: str
    place: str = ""

    def wrong(self, what: str) -> StockpotError:
        return StockpotError(f"{self.source}: {self.place}: {what}" if self.place else f"{self.source}: {what}")

    def below(self, key: object, value: Any) -> _Node:
        return _Node(value, self.source, f"{self.place}.{key}" if self.place else f"{key}")

    def fields(self, known: Sequence[str], needed: Sequence[str] = ()) -> dict[str, _Node]:
        """The mapping's values; a key without one counts as left out, as in mergekit."""
        if not isinstance(self.value, Mapping):
            raise self.wrong(f"expected `key: value` lines, not {self.value!r}.")
        given = {}
        for key, value in self.value.items():
            node = self.below(key, value)
            if key not in known and key not in _REFUSED:
                hint = did_you_mean(str(key), known) or f" Known here: {', '.join(known)}."
                raise node.wrong(f"unknown key.{hint}")
            if value is None:
                continue
            if key not in known:
                raise node.wrong(f"not supported: {_REFUSED[key]}.")
            given[key] = node
        for key in needed:
            if key not in given:
                raise self.wrong(f"{key} is missing.")
        return given

    def items(self, of: str) -> Iterator[_Node]:
        if not isinstance(self.value, list | tuple) or not self.value:
            raise self.wrong(f"expected a list of {of}, not {self.value!r}.")
        return (self.below(number, value) for number, value in enumerate(self.value))

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.wrong(f"expected a text, not {self.value!r}.")
        return self.value

    def integer(self) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.wrong(f"expected a whole number, not {self.value!r}.")
        return self.value


@dataclass(frozen=True)
class _Reader:
    """What the models and slices of one configuration are read with. `theirs`: with mergekit's meaning of a base."""

    rule: Rule
    base: str | None
    shared: Parameters
    theirs: bool

    def models(self, node: _Node) -> tuple[MergeModel, ...]:
        found = []
        for entry in node.items("models"):
            if isinstance(entry.value, str):
                found.append(MergeModel(_model(entry)))
                continue
            fields = entry.fields(("model", "parameters"), needed=("model",))
            found.append(MergeModel(_model(fields["model"]), _parameters(fields, self.rule)))
        listed = any(model.path == self.base for model in found)
        if self.theirs and self.base and not listed and self.rule.name in ("linear", "slerp"):
            if self.rule.name == "linear" and "weight" not in self.shared:
                raise node.wrong(
                    f"the base_model {self.base} is not listed, and linear merges it too: list it with a weight of "
                    "its own, or leave base_model out."
                )
            found.append(MergeModel(self.base))
        return self._merged(node, found, self.base)

    def slices(self, node: _Node) -> tuple[Slice, ...]:
        found = []
        for entry in node.items("slices"):
            fields = entry.fields(("sources", "base_model", "parameters", "stack"), needed=("sources",))
            base = _model(fields["base_model"]) if "base_model" in fields else None
            sources = [self._source(source) for source in fields["sources"].items("sources")]
            merged = self._merged(fields["sources"], sources, base or self.base)
            # A base that is not merged is read at the layers of the first model that is.
            ranges = {(source.first, source.last) for source in sources if source not in merged}
            if merged and ranges - {(merged[0].first, merged[0].last)}:
                raise fields["sources"].wrong("the base should have the layer_range of the first other model.")
            stack = fields["stack"].text() if "stack" in fields else None
            found.append(Slice(merged, base, _parameters(fields, self.rule), stack))
        return tuple(found)

    def _source(self, node: _Node) -> SliceSource:
        fields = node.fields(("model", "layer_range", "parameters"), needed=("model", "layer_range"))
        layers = list(fields["layer_range"].items("two layers"))
        if len(layers) != 2:
            raise fields["layer_range"].wrong("expected [first, one past the last].")
        first, last = (layer.integer() for layer in layers)
        return SliceSource(_model(fields["model"]), first, last, _parameters(fields, self.rule))

    def _merged(self, node: _Node, named: Sequence[_Merged], base: str | None) -> tuple[_Merged, ...]:
        """The models that take part, in our order."""
        if self.rule.base == "required" and base is None:
            raise node.wrong(
                f"{self.rule.name} needs the model that these were fine-tuned from: base_model is missing."
            )
        if not self.theirs:
            return tuple(named)
        paths = [one.path for one in named]
        for path in paths:
            if paths.count(path) > 1:
                raise node.wrong(f"{path} is listed twice.")
        if self.rule.name == "slerp":
            if base not in paths:
                raise node.wrong("slerp goes from the base_model, which should be one of the two, to the other one.")
            return tuple(sorted(named, key=lambda one: one.path != base))
        alone = self.rule.base == "required" or self.rule.of == "vectors"
        return tuple(one for one in named if not alone or one.path != base)


def _choice(fields: Mapping[str, _Node], key: str, known: Sequence[str]) -> Any:
    """One of the words that are known; where none is given the first."""
    if key not in fields:
        return known[0]
    node = fields[key]
    if node.value not in known:
        raise node.wrong(f"one of {', '.join(known)}, not {node.value!r}.{did_you_mean(str(node.value), known)}")
    return node.value


def _rule(node: _Node) -> Rule:
    name = node.text()
    if name not in RULES:
        raise node.wrong(f"there is no merge rule {name!r}.{did_you_mean(name, RULES)} Known: {', '.join(RULES)}.")
    return RULES[name]


def _dtype(node: _Node) -> str:
    name = node.text().removeprefix("torch.")
    try:
        return dtype_name(name)
    except StockpotError as error:
        raise node.wrong(str(error)) from error


def _model(node: _Node) -> str:
    """A model by its name: PATH, PATH@REVISION, MODEL+ADAPTER, or mergekit's mapping that says the same."""
    if not isinstance(node.value, Mapping):
        return node.text()
    fields = node.fields(("model", "lora"), needed=("model",))
    return "+".join(_path(fields[key]) for key in ("model", "lora") if key in fields)


def _path(node: _Node) -> str:
    if not isinstance(node.value, Mapping):
        return node.text()
    fields = node.fields(("path", "revision"), needed=("path",))
    return "@".join(fields[key].text() for key in ("path", "revision") if key in fields)


def _tokenizer(top: _Node, fields: Mapping[str, _Node]) -> str | None:
    if "tokenizer" in fields and "tokenizer_source" in fields:
        raise top.wrong("give one of tokenizer and tokenizer_source.")
    if "tokenizer_source" in fields:
        node = fields["tokenizer_source"]
    elif "tokenizer" in fields:
        # Without a source mergekit would take the union.
        node = fields["tokenizer"].fields(("source",), needed=("source",))["source"]
    else:
        return None
    if node.value == "union":
        raise node.wrong("union is not supported: vocabularies are not put together; name one model, or base.")
    return _model(node)


def _parameters(fields: Mapping[str, _Node], rule: Rule) -> dict[str, Setting]:
    if "parameters" not in fields:
        return {}
    node = fields["parameters"]
    if not isinstance(node.value, Mapping):
        raise node.wrong(f"expected `key: value` lines, not {node.value!r}.")
    found: dict[str, Setting] = {}
    for key, value in node.value.items():
        name = _RENAMED.get(rule.name, {}).get(str(key), str(key))
        if name in found:
            raise node.below(key, value).wrong(f"it is there already, as {name}.")
        found[name] = _setting(node.below(key, value), rule.parameter(name))
    return found


def _setting(node: _Node, parameter: Parameter | None) -> Setting:
    """A scalar, scalars over depth, or {value, filter} once or as a list."""
    value = node.value
    if isinstance(value, Mapping):
        return (_filtered(node, parameter),)
    if isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        return tuple(_filtered(one, parameter) for one in node.items("values"))
    return _over_depth(node, parameter)


def _filtered(node: _Node, parameter: Parameter | None) -> Filtered:
    fields = node.fields(("value", "filter"))
    if "value" not in node.value:
        raise node.wrong("value is missing.")
    word = fields["filter"].value if "filter" in fields else None
    if word is not None and not isinstance(word, str):
        raise fields["filter"].wrong(f"expected a part of tensors' names, not {word!r}.")
    return Filtered(_over_depth(fields["value"], parameter) if "value" in fields else None, word)


def _over_depth(node: _Node, parameter: Parameter | None) -> Value | tuple[Value, ...]:
    if isinstance(node.value, list | tuple):
        return tuple(_scalar(one, parameter) for one in node.items("values"))
    return _scalar(node, parameter)


def _scalar(node: _Node, parameter: Parameter | None) -> Value:
    value = node.value
    if value is not None and not isinstance(value, bool | int | float | str):
        raise node.wrong(f"expected a number, true or false, or a text, not {value!r}.")
    if parameter is None or parameter.required or value is None:
        return read_switches(value)  # type: ignore[no-any-return]
    if isinstance(parameter.default, bool):
        return _SWITCHES.get(str(value).lower(), value)
    if isinstance(value, str) and not isinstance(parameter.default, str):
        try:
            return float(value)
        except ValueError:
            raise node.wrong(f"expected a number, not {value!r}.") from None
    return value
