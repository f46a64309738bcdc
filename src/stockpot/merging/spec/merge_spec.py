"""What the user asked for: a rule, models, parameters. One form, from the command line, Python and YAML alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stockpot.merging.rule import Value


@dataclass(frozen=True)
class Filtered:
    """A value for the tensors whose names contain `filter`; None for all others."""

    value: Value | tuple[Value, ...]
    filter: str | None = None


# One value, values over depth, or values by tensor name of which the first that fits counts.
Setting = Value | tuple[Value, ...] | tuple[Filtered, ...]
Parameters = Mapping[str, Setting]


@dataclass(frozen=True)
class MergeModel:
    """One model: where it is, and its own parameters."""

    path: str
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class SliceSource:
    """The layers [first, last) of a model."""

    path: str
    first: int
    last: int
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A run of the output's layers: the merge of as many layers of every source.

    `stack` says of which stack: `encoder`, `decoder`, or what its tensors' names begin with; default: the language
    model's.
    """

    sources: tuple[SliceSource, ...]
    base: str | None = None
    parameters: Parameters = field(default_factory=dict)
    stack: str | None = None


@dataclass(frozen=True)
class MergeSpec:
    """A merge. `trim` says over what the largest elements are counted: the whole model or each tensor.

    `on_missing`: a tensor that a model lacks, or has in another shape, is an error; or the base's stands in for it
    (`base`); or that model is left out of that tensor (`skip`). `dtype` is the output's, by its safetensors name;
    default: the first model's, tensor by tensor. `tokenizer` and `chat_template` are as in mergekit's files.
    """

    rule: str
    models: tuple[MergeModel, ...] = ()
    base: str | None = None
    parameters: Parameters = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    dtype: str | None = None
    trim: Literal["model", "tensor"] = "model"
    on_missing: Literal["error", "base", "skip"] = "error"
    seed: int = 0
    tokenizer: str | None = None
    chat_template: str | None = None
    dialect: Literal["stockpot", "mergekit"] = "stockpot"

    @property
    def paths(self) -> list[str]:
        """Every model once: those that are merged in order, then bases."""
        named = [model.path for model in self.models]
        named += [source.path for part in self.slices for source in part.sources]
        named += [part.base for part in self.slices if part.base]
        return list(dict.fromkeys([*named, *([self.base] if self.base else [])]))


def spec_to_mapping(spec: MergeSpec) -> dict[str, Any]:
    """The spec as the mapping that `stockpot merge FILE` reads back to the same merge."""

    def setting(value: Any) -> Any:
        if isinstance(value, Filtered):
            return {"value": setting(value.value)} | ({} if value.filter is None else {"filter": value.filter})
        return [setting(part) for part in value] if isinstance(value, tuple) else value

    def parameters(given: Parameters) -> dict[str, Any]:
        return {"parameters": {key: setting(value) for key, value in given.items()}} if given else {}

    result: dict[str, Any] = {"merge_method": spec.rule}
    if spec.base:
        result["base_model"] = spec.base
    if spec.models:
        result["models"] = [{"model": model.path} | parameters(model.parameters) for model in spec.models]
    if spec.slices:
        result["slices"] = [
            {
                "sources": [
                    {"model": source.path, "layer_range": [source.first, source.last]} | parameters(source.parameters)
                    for source in part.sources
                ]
            }
            | ({"stack": part.stack} if part.stack else {})
            | ({"base_model": part.base} if part.base else {})
            | parameters(part.parameters)
            for part in spec.slices
        ]
    result |= parameters(spec.parameters)
    optional = {"out_dtype": spec.dtype, "tokenizer_source": spec.tokenizer, "chat_template": spec.chat_template}
    result |= {key: value for key, value in optional.items() if value is not None}
    return result | {
        "stockpot": {
            "trim": spec.trim, "on_missing": spec.on_missing, "seed": spec.seed, "defaults": spec.dialect,
        }
    }  # fmt: skip
