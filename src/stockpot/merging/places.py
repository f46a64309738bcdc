"""Where each tensor of the output comes from: the same name in every model, or with slices another layer's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stockpot.errors import StockpotError
from stockpot.merging.sources import Source
from stockpot.merging.spec import MergeSpec, Parameters, Slice

_NUMBERED = re.compile(r"^(?P<stack>.*?\.|)(?P<layer>\d{1,9})(?P<rest>\..*|)$")


@dataclass(frozen=True, slots=True)
class Part:
    """A model's share in a tensor: the source, its name of the tensor, the model's own parameters."""

    source: int
    name: str
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor of the output: `depth` from 0 at the first layer to 1 at the last, 0 outside the layers."""

    name: str
    depth: float
    parts: tuple[Part, ...]
    base: tuple[int, str] | None
    scopes: tuple[Parameters, ...]


def layer_of(name: str) -> tuple[str, int, str] | None:
    """The name cut at its first number: `model.layers.3.mlp.weight` is layer 3 of the stack `model.layers.`."""
    found = _NUMBERED.match(name)
    return (found["stack"], int(found["layer"]), found["rest"]) if found else None


def layer_counts(names: Sequence[str] | Mapping[str, object]) -> dict[str, int]:
    """How many layers every stack has."""
    counts: dict[str, int] = {}
    for name in names:
        if (layer := layer_of(name)) is not None:
            counts[layer[0]] = max(counts.get(layer[0], 0), layer[1] + 1)
    return counts


def places(spec: MergeSpec, sources: Sequence[Source]) -> Iterable[Place]:
    """All tensors of the output, in the order in which the base, or else the first model, holds them."""
    index = {path: number for number, path in enumerate(spec.paths)}
    if spec.slices:
        return _sliced(spec, sources, index)
    base = index[spec.base] if spec.base else None
    reference = sources[base if base is not None else index[spec.models[0].path]].tensors
    counts = layer_counts(reference)
    return (
        Place(
            name,
            _depth(name, counts),
            tuple(Part(index[model.path], name, model.parameters) for model in spec.models),
            None if base is None else (base, name),
            (spec.parameters,),
        )
        for name in reference
    )


def _depth(name: str, counts: Mapping[str, int]) -> float:
    layer = layer_of(name)
    if layer is None:
        return 0.0
    return layer[1] / (counts[layer[0]] - 1) if counts[layer[0]] > 1 else 1.0


def _sliced(spec: MergeSpec, sources: Sequence[Source], index: Mapping[str, int]) -> list[Place]:
    first = sources[index[spec.slices[0].sources[0].path]]
    counts = layer_counts(first.tensors)
    if not counts:
        raise StockpotError(f"{first.label}: no tensor's name has a layer's number, so there are no layers to slice.")
    stack = max(counts, key=lambda key: counts[key])
    found: list[Place] = []
    done = 0
    for number, part in enumerate(spec.slices):
        lengths = {source.last - source.first for source in part.sources}
        if len(lengths) > 1 or min(lengths) < 1:
            raise StockpotError(f"slices.{number}: every source should give the same number of layers, at least one.")
        length = lengths.pop()
        for source in part.sources:
            held = layer_counts(sources[index[source.path]].tensors).get(stack, 0)
            if not 0 <= source.first < source.last <= held:
                raise StockpotError(
                    f"slices.{number}: {source.path} has {held} layers ({stack}0 to {held - 1}); "
                    f"layer_range [{source.first}, {source.last}] asks for others."
                )
        reference = sources[index[part.sources[0].path]].tensors
        last = number == len(spec.slices) - 1
        for name in reference:
            layer = layer_of(name)
            if layer is None or layer[0] != stack:
                # What feeds the layers comes from the first slice, what follows them from the last.
                if (number == 0) if _before_layers(name) else last:
                    found.append(_place(spec, part, index, name, [name] * len(part.sources), name, 0.0))
                continue
            step = layer[1] - part.sources[0].first
            if 0 <= step < length:
                names = [f"{stack}{source.first + step}{layer[2]}" for source in part.sources]
                depth = step / (length - 1) if length > 1 else 1.0
                found.append(_place(spec, part, index, f"{stack}{done + step}{layer[2]}", names, names[0], depth))
        done += length
    return found


def _place(
    spec: MergeSpec, part: Slice, index: Mapping[str, int], name: str, names: Sequence[str], held: str, depth: float
) -> Place:
    base = part.base or spec.base
    named = {source.path: name for source, name in zip(part.sources, names, strict=True)}
    parts = tuple(
        Part(index[source.path], own, source.parameters) for source, own in zip(part.sources, names, strict=True)
    )
    return Place(
        name, depth, parts, (index[base], named.get(base, held)) if base else None, (part.parameters, spec.parameters)
    )


def _before_layers(name: str) -> bool:
    return any(word in name for word in ("embed", "wte", "wpe"))
