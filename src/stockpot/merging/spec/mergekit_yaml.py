"""mergekit's merge configurations (YAML), read with mergekit's meaning; an error names what is not supported."""

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
# mergekit's keys that are refused because they would change the result, and what to do instead.
_REFUSED = {
    "modules": "give models or slices; merge the parts of a model one checkpoint at a time",
    "residual_weight": "mergekit 0.1.5 reads it and ignores it: leave it out",
    "tokens": "embeddings are merged row by row as they are",
    "pad_to_multiple_of": "embeddings keep their size",
    "override_architecture": "any architecture is merged by the names of its tensors: leave it out",
}
# Parameters whose name in mergekit is longer than ours.
_RENAMED = {"nuslerp": {"nuslerp_flatten": "flatten", "nuslerp_row_wise": "row_wise"}}
_SWITCHES = {
    word: word in ("1", "1.0", "true", "t", "yes", "y", "on")
    for word in ("1", "1.0", "true", "t", "yes", "y", "on", "0", "0.0", "false", "f", "no", "n", "off")
}


def read_merge_config(path: Path) -> MergeSpec:
    """Reads the merge that a file describes; see `parse_merge_config`."""
    return parse_merge_config(read_yaml(path), str(path))


def parse_merge_config(values: Mapping[str, Any], source: str) -> MergeSpec:
    """The merge that mergekit's configuration `values` describes, with mergekit's meaning and defaults.

    A listed base is not merged if the rule requires a base or works on task vectors; slerp goes from the base to the
    other model; linear also merges a base that is not listed. The largest elements are counted in each tensor. The
    output has the type `out_dtype`, else `dtype`; the arithmetic is in fp32 whatever `dtype` says.

    Two keys of our own say what mergekit has no key for: `stack` in a slice (see `Slice`), and the block
    `stockpot: {trim, on_missing, seed, defaults}`. With `defaults: stockpot` models, defaults and trim mean what they
    do on the command line.

    Raises StockpotError, with `source` and the key, for unknown and unsupported keys and for malformed values.
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
    # A dtype that out_dtype overrides is still checked.
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
    """A value of a configuration, and the dotted path of its keys."""

    value: Any
    source: str
    place: str = ""

    def wrong(self, what: str) -> StockpotError:
        return StockpotError(f"{self.source}: {self.place}: {what}" if self.place else f"{self.source}: {what}")

    def below(self, key: object, value: Any) -> _Node:
        return _Node(value, self.source, f"{self.place}.{key}" if self.place else f"{key}")

    def fields(self, known: Sequence[str], needed: Sequence[str] = ()) -> dict[str, _Node]:
        """The mapping's values; a key without a value counts as absent, as in mergekit."""
        if not isinstance(self.value, Mapping):
            raise self.wrong(f"expected `key: value` lines, not {self.value!r}.")
        nodes = {}
        for key, value in self.value.items():
            node = self.below(key, value)
            if key not in known and key not in _REFUSED:
                hint = did_you_mean(str(key), known) or f" Known here: {', '.join(known)}."
                raise node.wrong(f"unknown key.{hint}")
            if value is None:
                continue
            if key not in known:
                raise node.wrong(f"not supported: {_REFUSED[key]}.")
            nodes[key] = node
        for key in needed:
            if key not in nodes:
                raise self.wrong(f"{key} is missing.")
        return nodes

    def items(self, of: str) -> Iterator[_Node]:
        if not isinstance(self.value, list | tuple) or not self.value:
            raise self.wrong(f"expected a list of {of}, not {self.value!r}.")
        return (self.below(number, value) for number, value in enumerate(self.value))

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.wrong(f"expected a string, not {self.value!r}.")
        return self.value

    def integer(self) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.wrong(f"expected an integer, not {self.value!r}.")
        return self.value


@dataclass(frozen=True)
class _Reader:
    """Reads the models and slices of one configuration. `as_mergekit`: with mergekit's meaning of a base."""

    rule: Rule
    base: str | None
    shared: Parameters
    as_mergekit: bool

    def models(self, node: _Node) -> tuple[MergeModel, ...]:
        models = []
        for entry in node.items("models"):
            if isinstance(entry.value, str):
                models.append(MergeModel(_model(entry)))
                continue
            fields = entry.fields(("model", "parameters"), needed=("model",))
            models.append(MergeModel(_model(fields["model"]), _parameters(fields, self.rule)))
        listed = any(model.path == self.base for model in models)
        if self.as_mergekit and self.base and not listed and self.rule.name in ("linear", "slerp"):
            if self.rule.name == "linear" and "weight" not in self.shared:
                raise node.wrong(
                    f"linear also merges the base_model {self.base}, which is not listed: list it with a weight of "
                    "its own, or leave base_model out."
                )
            models.append(MergeModel(self.base))
        return self._merged(node, models, self.base)

    def slices(self, node: _Node) -> tuple[Slice, ...]:
        slices = []
        for entry in node.items("slices"):
            fields = entry.fields(("sources", "base_model", "parameters", "stack"), needed=("sources",))
            base = _model(fields["base_model"]) if "base_model" in fields else None
            sources = [self._source(source) for source in fields["sources"].items("sources")]
            merged = self._merged(fields["sources"], sources, base or self.base)
            # A base that is not merged is read at the layers of the first merged model.
            ranges = {(source.first, source.last) for source in sources if source not in merged}
            if merged and ranges - {(merged[0].first, merged[0].last)}:
                raise fields["sources"].wrong("the base must have the same layer_range as the first other model.")
            stack = fields["stack"].text() if "stack" in fields else None
            slices.append(Slice(merged, base, _parameters(fields, self.rule), stack))
        return tuple(slices)

    def _source(self, node: _Node) -> SliceSource:
        fields = node.fields(("model", "layer_range", "parameters"), needed=("model", "layer_range"))
        layers = list(fields["layer_range"].items("two layers"))
        if len(layers) != 2:
            raise fields["layer_range"].wrong("expected [first layer, last layer + 1].")
        first, last = (layer.integer() for layer in layers)
        return SliceSource(_model(fields["model"]), first, last, _parameters(fields, self.rule))

    def _merged(self, node: _Node, listed: Sequence[_Merged], base: str | None) -> tuple[_Merged, ...]:
        """The models that are merged, in our order."""
        if self.rule.base == "required" and base is None:
            raise node.wrong(
                f"base_model is missing: {self.rule.name} needs the model that these were fine-tuned from."
            )
        if not self.as_mergekit:
            return tuple(listed)
        paths = [model.path for model in listed]
        for path in paths:
            if paths.count(path) > 1:
                raise node.wrong(f"{path} is listed twice.")
        if self.rule.name == "slerp":
            if base not in paths:
                raise node.wrong("slerp goes from base_model to the other model: base_model must be one of the two.")
            return tuple(sorted(listed, key=lambda model: model.path != base))
        without_base = self.rule.base == "required" or self.rule.of == "vectors"
        return tuple(model for model in listed if not without_base or model.path != base)


def _choice(fields: Mapping[str, _Node], key: str, known: Sequence[str]) -> Any:
    """The given choice, one of `known`; by default the first of them."""
    if key not in fields:
        return known[0]
    node = fields[key]
    if node.value not in known:
        raise node.wrong(
            f"expected one of {', '.join(known)}, not {node.value!r}.{did_you_mean(str(node.value), known)}"
        )
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
    """A model's name: PATH, PATH@REVISION, MODEL+ADAPTER, or mergekit's mapping for the same."""
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
        # Without a source mergekit would build the union.
        node = fields["tokenizer"].fields(("source",), needed=("source",))["source"]
    else:
        return None
    if node.value == "union":
        raise node.wrong("union is not supported, vocabularies are not combined: name one model, or base.")
    return _model(node)


def _parameters(fields: Mapping[str, _Node], rule: Rule) -> dict[str, Setting]:
    if "parameters" not in fields:
        return {}
    node = fields["parameters"]
    if not isinstance(node.value, Mapping):
        raise node.wrong(f"expected `key: value` lines, not {node.value!r}.")
    settings: dict[str, Setting] = {}
    for key, value in node.value.items():
        name = _RENAMED.get(rule.name, {}).get(str(key), str(key))
        if name in settings:
            raise node.below(key, value).wrong(f"given twice: it is the same parameter as {name}.")
        settings[name] = _setting(node.below(key, value), rule.parameter(name))
    return settings


def _setting(node: _Node, parameter: Parameter | None) -> Setting:
    """A scalar, a list of scalars over depth, one {value, filter}, or a list of these."""
    value = node.value
    if isinstance(value, Mapping):
        return (_filtered(node, parameter),)
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return tuple(_filtered(item, parameter) for item in node.items("values"))
    return _over_depth(node, parameter)


def _filtered(node: _Node, parameter: Parameter | None) -> Filtered:
    fields = node.fields(("value", "filter"))
    if "value" not in node.value:
        raise node.wrong("value is missing.")
    word = fields["filter"].value if "filter" in fields else None
    if word is not None and not isinstance(word, str):
        raise fields["filter"].wrong(f"expected part of a tensor's name, not {word!r}.")
    return Filtered(_over_depth(fields["value"], parameter) if "value" in fields else None, word)


def _over_depth(node: _Node, parameter: Parameter | None) -> Value | tuple[Value, ...]:
    if isinstance(node.value, list | tuple):
        return tuple(_scalar(item, parameter) for item in node.items("values"))
    return _scalar(node, parameter)


def _scalar(node: _Node, parameter: Parameter | None) -> Value:
    value = node.value
    if value is not None and not isinstance(value, bool | int | float | str):
        raise node.wrong(f"expected a number, a switch or a string, not {value!r}.")
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
