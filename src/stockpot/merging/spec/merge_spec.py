"""What the user asks for: a rule, models and parameters, in one form for Python, the command line and YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stockpot.merging.rule import Value


@dataclass(frozen=True)
class Filtered:
    """A value for the tensors whose names contain `filter`; a filter of None matches every tensor."""

    value: Value | tuple[Value, ...]
    filter: str | None = None


# One value; values over depth; or values by tensor name, of which the first match counts.
Setting = Value | tuple[Value, ...] | tuple[Filtered, ...]
Parameters = Mapping[str, Setting]


@dataclass(frozen=True)
class MergeModel:
    """One model: its path, and the parameters that apply to it alone."""

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
    """Consecutive layers of the output: a merge of the same number of layers from every source.

    `stack` names the stack that the layers belong to: `encoder`, `decoder`, or the prefix of its tensors' names. The
    default is the language model's.
    """

    sources: tuple[SliceSource, ...]
    base: str | None = None
    parameters: Parameters = field(default_factory=dict)
    stack: str | None = None


@dataclass(frozen=True)
class MergeSpec:
    """A merge.

    `trim` says whether the largest elements are counted over the whole model or within each tensor. `on_missing` says
    what happens to a tensor that a model lacks or has in another shape: an error, the base's tensor in its place
    (`base`), or a merge of that tensor without that model (`skip`). `dtype` is the output's type by its safetensors
    name; by default each tensor has the first model's. `tokenizer` and `chat_template` mean what they do in mergekit's
    files.
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
        """Every model once: the merged ones in order, then the bases."""
        paths = [model.path for model in self.models]
        paths += [source.path for part in self.slices for source in part.sources]
        paths += [part.base for part in self.slices if part.base]
        return list(dict.fromkeys([*paths, *([self.base] if self.base else [])]))


def spec_to_mapping(spec: MergeSpec) -> dict[str, Any]:
    """The spec as a mapping; written as YAML, `stockpot merge FILE` reads it back as the same merge."""

    def setting(value: Any) -> Any:
        if isinstance(value, Filtered):
            return {"value": setting(value.value)} | ({} if value.filter is None else {"filter": value.filter})
        return [setting(part) for part in value] if isinstance(value, tuple) else value

    def parameters(values: Parameters) -> dict[str, Any]:
        return {"parameters": {key: setting(value) for key, value in values.items()}} if values else {}

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
