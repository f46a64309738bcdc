"""Where each tensor of the output comes from: the same name in every model or, with slices, another layer's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stockpot.errors import StockpotError
from stockpot.merging.plan.layer_stacks import (
    Stack,
    choose_stack,
    feeds,
    first_layer_extras,
    is_pair,
    language_stacks,
    layer_counts,
    layer_of,
    rests_of,
)
from stockpot.merging.read.sources import TensorSource
from stockpot.merging.spec.merge_spec import MergeSpec, Parameters, Slice, SliceSource


@dataclass(frozen=True, slots=True)
class OriginPart:
    """A model's part in a tensor: the number of the source, its name of the tensor, the model's own parameters."""

    source: int
    name: str
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class TensorOrigin:
    """One tensor of the output, and what it is made from.

    `depth` runs from 0 at the first layer of the language model to 1 at its last, separately in an encoder and its
    decoder; outside the layers it is 0. `base` is the number of the base's source and its name of the tensor.
    """

    name: str
    depth: float
    parts: tuple[OriginPart, ...]
    base: tuple[int, str] | None
    scopes: tuple[Parameters, ...]


def tensor_origins(spec: MergeSpec, sources: Sequence[TensorSource]) -> Iterable[TensorOrigin]:
    """All tensors of the output, in the order of the base, or else of the first model."""
    index = {path: number for number, path in enumerate(spec.paths)}
    if spec.slices:
        return _sliced(spec, sources, index)
    base = index[spec.base] if spec.base else None
    reference = sources[base if base is not None else index[spec.models[0].path]].tensors
    counts = {stack.prefix: stack.count for stack in language_stacks(reference)}
    return (
        TensorOrigin(
            name,
            _depth(name, counts),
            tuple(OriginPart(index[model.path], name, model.parameters) for model in spec.models),
            None if base is None else (base, name),
            (spec.parameters,),
        )
        for name in reference
    )


def _depth(name: str, counts: Mapping[str, int]) -> float:
    layer = layer_of(name)
    if layer is None or layer[0] not in counts:
        return 0.0
    return layer[1] / (counts[layer[0]] - 1) if counts[layer[0]] > 1 else 1.0


@dataclass(frozen=True, slots=True)
class Sliced:
    """A stack of the output, and the slices that it is made of, with their numbers in the spec."""

    stack: Stack
    parts: tuple[tuple[int, Slice], ...]


def sliced_stacks(spec: MergeSpec, sources: Sequence[TensorSource]) -> list[Sliced]:
    """The stacks that are sliced, an encoder before its decoder; raises StockpotError for a slice that does not fit."""
    index = {path: number for number, path in enumerate(spec.paths)}
    first = sources[index[spec.slices[0].sources[0].path]]
    stacks = language_stacks(first.tensors)
    parts: dict[Stack, list[tuple[int, Slice]]] = {}
    for number, part in enumerate(spec.slices):
        where = f"slices.{number}"
        stack = choose_stack(stacks, part.stack, where, first.label)
        lengths = {source.last - source.first for source in part.sources}
        if len(lengths) > 1 or min(lengths) < 1:
            raise StockpotError(f"{where}: every source must give the same number of layers, at least one.")
        for source in part.sources:
            layers = layer_counts(sources[index[source.path]].tensors).get(stack.prefix, 0)
            if not 0 <= source.first < source.last <= layers:
                raise StockpotError(
                    f"{where}: {source.path} has {layers} layers ({stack.prefix}0 to {layers - 1}), but layer_range "
                    f"is [{source.first}, {source.last}]."
                )
        parts.setdefault(stack, []).append((number, part))
    return [Sliced(stack, tuple(parts[stack])) for stack in stacks if stack in parts]


def _sliced(spec: MergeSpec, sources: Sequence[TensorSource], index: Mapping[str, int]) -> Iterator[TensorOrigin]:
    sliced_parts = sliced_stacks(spec, sources)
    stacks = language_stacks(sources[index[spec.slices[0].sources[0].path]].tensors)
    prefixes = {sliced.stack.prefix for sliced in sliced_parts}
    for sliced in sliced_parts:
        prefix, done = sliced.stack.prefix, 0
        for number, part in sliced.parts:
            reference = sources[index[part.sources[0].path]].tensors
            extras = first_layer_extras(rests_of(reference, prefix))
            length = part.sources[0].last - part.sources[0].first
            for name in reference:
                layer = layer_of(name)
                if layer is None or layer[0] not in prefixes:
                    if _slice_outside_layers(name, sliced_parts, stacks) == number:
                        yield _origin(spec, part, index, name, [name] * len(part.sources), 0.0)
                    continue
                step = layer[1] - part.sources[0].first
                if layer[0] != prefix:
                    continue
                if layer[2] in extras:
                    if done == 0:
                        yield _origin(spec, part, index, name, [name] * len(part.sources), 0.0)
                elif 0 <= step < length:
                    names = [f"{prefix}{source.first + step}{layer[2]}" for source in part.sources]
                    depth = step / (length - 1) if length > 1 else 1.0
                    yield _origin(spec, part, index, f"{prefix}{done + step}{layer[2]}", names, depth)
            done += length


def unmatched_in_slices(spec: MergeSpec, sources: Sequence[TensorSource]) -> Iterator[tuple[int, list[str]]]:
    """For each model of a slice but the first: its number, and its tensors there that the first one lacks."""
    index = {path: number for number, path in enumerate(spec.paths)}
    sliced_parts = sliced_stacks(spec, sources)
    prefixes = {sliced.stack.prefix for sliced in sliced_parts}

    def by_position(source: SliceSource, prefix: str) -> dict[object, str]:
        tensors = sources[index[source.path]].tensors
        extras = first_layer_extras(rests_of(tensors, prefix))
        names: dict[object, str] = {}
        for name in tensors:
            layer = layer_of(name)
            if layer is None or layer[0] not in prefixes:
                names[name] = name
            elif layer[0] == prefix and source.first <= layer[1] < source.last and layer[2] not in extras:
                names[layer[1] - source.first, layer[2]] = name
        return names

    for sliced in sliced_parts:
        for _, part in sliced.parts:
            reference = by_position(part.sources[0], sliced.stack.prefix) if len(part.sources) > 1 else {}
            for source in part.sources[1:]:
                names = by_position(source, sliced.stack.prefix)
                yield index[source.path], [name for position, name in names.items() if position not in reference]


def _slice_outside_layers(name: str, sliced_parts: Sequence[Sliced], stacks: Sequence[Stack]) -> int:
    """The number of the slice whose models give a tensor outside the sliced layers.

    What feeds the layers comes from the first slice, what follows them from the last. A tensor inside an encoder or a
    decoder goes with that half's slices.
    """
    first, last = sliced_parts[0], sliced_parts[-1]
    after = not feeds(name, first.stack)
    for stack in stacks if is_pair(stacks) else ():
        if stack.root and name.startswith(stack.root):
            sliced = next((sliced for sliced in sliced_parts if sliced.stack == stack), None)
            if sliced is not None:
                first = last = sliced
            else:  # only the other half is sliced; this one is taken whole
                after = stack.role == "decoder"
    return last.parts[-1][0] if after else first.parts[0][0]


def _origin(
    spec: MergeSpec, part: Slice, index: Mapping[str, int], name: str, names: Sequence[str], depth: float
) -> TensorOrigin:
    base = part.base or spec.base
    name_in = {source.path: name for source, name in zip(part.sources, names, strict=True)}
    parts = tuple(
        OriginPart(index[source.path], source_name, source.parameters)
        for source, source_name in zip(part.sources, names, strict=True)
    )
    return TensorOrigin(
        name,
        depth,
        parts,
        (index[base], name_in.get(base, names[0])) if base else None,
        (part.parameters, spec.parameters),
    )
