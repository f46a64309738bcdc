"""The merge itself: one flat loop over pieces of tensors, one tensor after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from stockpot.errors import StockpotError
from stockpot.merging.compute.cuts import Stretch, find_cuts
from stockpot.merging.plan.merge_plan import Piece, Plan, SourceTensor, Target
from stockpot.merging.read.sources import TensorSource, torch_dtype
from stockpot.merging.rule import Block, Cut
from stockpot.merging.rules.random_masks import mask_key
from stockpot.merging.threads import PIECE, for_each

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Cuts = dict[str, list[dict[str, Cut]]]  # by the target's name, then by model
OnProgress = Callable[[int], None]  # called with the bytes of the output that a step of work accounts for


class Sink(Protocol):
    """The destination of merged pieces."""

    def write(self, name: str, start: int, flat: Tensor) -> None:
        """Takes elements of a tensor, from index `start` on, in the output's type."""


@dataclass
class MergeEngine:
    """Carries out a plan, some of its targets at a time."""

    plan: Plan
    threads: int
    allow_nonfinite: bool = False
    fishers: Mapping[str, TensorSource] = field(default_factory=dict)  # by path
    on_progress: OnProgress = lambda nbytes: None

    def __post_init__(self) -> None:
        import torch

        self.dtype = torch.float64 if self.plan.wide else torch.float32
        self._lock = threading.Lock()

    def own_cuts(self, targets: Sequence[Target]) -> Cuts:
        """The cuts that the rule needs, counted within each of `targets`."""
        own_cuts = Cuts()

        def act(target: Target) -> None:
            cuts = self.cuts([target], 1)
            with self._lock:
                own_cuts.update(cuts)

        for_each(targets, act, self.threads)
        return own_cuts

    def cuts(self, targets: Sequence[Target], threads: int | None = None) -> Cuts:
        """The cuts that the rule needs, counted over all of `targets` together."""
        rule, all_cuts = self.plan.rule, Cuts()
        merged = [target for target in targets if target.inputs and target.numel]
        if rule.cuts is None or not merged:
            return all_cuts
        # Tensors are counted together if the same models are merged in them and the same shares are kept.
        groups: dict[tuple[Any, ...], list[Target]] = {}
        for target in merged:
            shares = tuple(tuple(rule.cuts(settings, 10**9).items()) for settings in target.settings.each)
            groups.setdefault((tuple(part.source for part in target.inputs), shares), []).append(target)
        for group in groups.values():
            sizes = [target.numel for target in group]
            counts = [rule.cuts(settings, sum(sizes)) for settings in group[0].settings.each]
            stretches = [
                Stretch(number, start, min(start + PIECE, size))
                for number, size in enumerate(sizes)
                for start in range(0, size, PIECE)
            ]

            def load(stretch: Stretch, group: list[Target] = group) -> Sequence[Tensor]:
                return self.models(group[stretch.tensor], stretch.start, stretch.stop)[0]

            def on_stretch(stretch: Stretch, group: list[Target] = group) -> None:
                target = group[stretch.tensor]
                self.on_progress((stretch.stop - stretch.start) * target.nbytes // target.numel)

            cuts = find_cuts(sizes, counts, stretches, load, threads or self.threads, self.plan.wide, on_stretch)
            all_cuts.update(zip((target.name for target in group), cuts, strict=True))
        return all_cuts

    def merge(self, targets: Sequence[Target], sink: Sink, cuts: Cuts) -> None:
        """Merges every piece of the targets into the sink."""
        summed = [target for target in targets if self.plan.gram(target) in ("tensor", "columns")]
        grams = self._grams(self._pieces(summed))

        def act(piece: Piece) -> None:
            target = piece.target
            merged = self._merged(piece, grams.get(target.name), cuts.get(target.name, ()))
            self._check(merged, piece)
            sink.write(target.name, piece.start, merged)
            self.on_progress(merged.numel() * merged.element_size())

        for_each(self._pieces(targets), act, self.threads)

    def _pieces(self, targets: Sequence[Target]) -> Iterator[Piece]:
        return (piece for target in targets for piece in self.plan.pieces(target))

    def models(self, target: Target, start: int, stop: int) -> tuple[list[Tensor], Tensor | None]:
        """For the elements [start, stop) of a target: each model's weights or task vector, and the base's weights."""
        import torch

        sources, count = self.plan.sources, stop - start
        base = None
        if target.base is not None and (self.plan.vectors or self.plan.rule.base == "required"):
            base = torch.empty(count, dtype=self.dtype)
            sources[target.base.source].read(target.base.name, start, base)
        models = []
        for part in target.inputs:
            model = torch.empty(count, dtype=self.dtype)
            source = sources[part.source]
            delta = self.plan.vectors and base is not None
            if delta and part == target.base:
                model.zero_()
            elif not (delta and source.read_delta(part.name, start, model)):
                source.read(part.name, start, model)
                if delta:
                    assert base is not None
                    model.sub_(base)
            models.append(model)
        return models, base

    def _merged(self, piece: Piece, gram: Tensor | None, cuts: Sequence[Mapping[str, Cut]]) -> Tensor:
        target, dtype = piece.target, torch_dtype(piece.target.dtype)
        if not target.inputs:
            return self._copied(piece, dtype)
        models, base = self.models(target, piece.start, piece.stop)
        if self.plan.gram(target) == "rows":
            gram = inner_products([model.view(piece.rows, piece.columns) for model in models], dim=1)
        block = Block(
            models, base, target.settings, piece.start, piece.rows, piece.columns, gram, cuts,
            self._keys(target) if self.plan.rule.random else (), self._fishers(piece),
        )  # fmt: skip
        merged = self.plan.rule.combine(block)
        if self.plan.vectors and self.plan.rule.of == "weights":  # `linear` of adapters
            merged = merged.add_(block.origin)
        return rounded(merged, dtype)

    def _copied(self, piece: Piece, dtype: torch.dtype) -> Tensor:
        import torch

        target, origin = piece.target, piece.target.base
        assert origin is not None
        copy = torch.empty(piece.stop - piece.start, dtype=torch.float64 if dtype is torch.float8_e4m3fn else dtype)
        self.plan.sources[origin.source].read(origin.name, piece.start, copy)
        copy = rounded(copy, dtype)
        for other in target.same:
            other_copy = torch.empty_like(copy)
            self.plan.sources[other.source].read(other.name, piece.start, other_copy)
            if not torch.equal(copy, other_copy):
                raise StockpotError(
                    f"'{target.name}' holds {target.dtype} integers, which are not averaged, and they differ between "
                    f"{self._label(origin)} and {self._label(other)}: give a base to copy them from, --base MODEL."
                )
        return copy

    def _label(self, part: SourceTensor) -> str:
        return self.plan.sources[part.source].label

    def _keys(self, target: Target) -> list[int]:
        return [mask_key(self.plan.spec.seed, number, target.name) for number in range(len(target.inputs))]

    def _fishers(self, piece: Piece) -> list[Tensor]:
        import torch

        fishers = []
        for part, settings in zip(piece.target.inputs, piece.target.settings.each, strict=True):
            if self.plan.rule.fishers:
                information = torch.zeros(piece.stop - piece.start, dtype=self.dtype)
                source = self.fishers[str(settings["fisher"])]
                if part.name in source.tensors:
                    source.read(part.name, piece.start, information)
                fishers.append(information)
        return fishers

    def _grams(self, pieces: Iterable[Piece]) -> dict[str, Tensor]:
        """The models' inner products, summed over all pieces of a tensor in the order of the pieces."""
        import torch

        parts: dict[str, dict[int, Any]] = {}

        def act(piece: Piece) -> None:
            models, _ = self.models(piece.target, piece.start, piece.stop)
            if self.plan.gram(piece.target) == "columns":
                product = inner_products([model.view(piece.rows, piece.columns) for model in models], dim=0)
            else:
                product = inner_products(models, dim=0)
            with self._lock:
                # Kept as small Python objects: a tensor here would fragment the memory that freed pieces leave.
                kept = product.tolist() if product.dim() == 2 else product
                parts.setdefault(piece.target.name, {})[piece.start] = kept
            self.on_progress(piece.target.nbytes * (piece.stop - piece.start) // piece.target.numel)

        for_each(pieces, act, self.threads)
        grams: dict[str, Tensor] = {}
        for name, products in parts.items():
            ordered = [products[start] for start in sorted(products)]
            first, *rest = (torch.as_tensor(product, dtype=torch.float64) for product in ordered)
            grams[name] = first
            for product in rest:
                first += product
        return grams

    def _check(self, merged: Tensor, piece: Piece) -> None:
        position = None if self.allow_nonfinite else first_nonfinite(merged, piece.target.dtype)
        if position is None:
            return
        target = piece.target
        index = piece.start + position
        why = f"{target.dtype} cannot hold the result"
        if labels := self._nonfinite_in(target, index, index + 1):
            why = f"NaN or infinity in {labels}"
        # Through inner products one NaN or infinity reaches every element.
        elif self.plan.gram(target) and (labels := self._nonfinite_in(target, 0, target.numel)):
            why = f"NaN or infinity elsewhere in this tensor, in {labels}"
        raise StockpotError(
            f"tensor '{target.name}' would hold {float(merged[position])} at element {index:,}: {why}. "
            "Nothing was written; --allow-nonfinite merges anyway."
        )

    def _nonfinite_in(self, target: Target, start: int, stop: int) -> str:
        """The labels of the target's inputs that have NaN or infinity among the elements [start, stop)."""
        import torch

        read = [(self.plan.sources[part.source], part.name) for part in (*target.inputs, target.base) if part]
        if self.plan.rule.fishers:
            fishers = (self.fishers[str(settings["fisher"])] for settings in target.settings.each)
            read += [(fisher, part.name) for fisher, part in zip(fishers, target.inputs, strict=True)]
        labels: dict[str, None] = {}
        for source, name in read:
            for first in range(start, stop if name in source.tensors else start, PIECE):
                values = torch.empty(min(PIECE, stop - first), dtype=torch.float64)
                source.read(name, first, values)
                if not bool(values.isfinite().all()):
                    labels[source.label] = None
        return ", ".join(labels)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in the output's type; those out of its range become infinite, or NaN in a type without infinity."""
    import torch

    if values.dtype is dtype:
        return values
    if dtype is torch.float8_e4m3fn:  # torch clamps all larger values to 448, even infinity; only up to 464 round to it
        values.masked_fill_(values.abs() > 464, torch.nan)
    return torch.empty(values.numel(), dtype=dtype).copy_(values)


def inner_products(models: Sequence[Tensor], dim: int) -> Tensor:
    """All inner products of the models along `dim`, summed in fp64; shape (models, models, *remaining dimensions)."""
    import torch

    wide = [model.double() for model in models]
    count = len(wide)
    shape = [size for position, size in enumerate(wide[0].shape) if position != dim]
    products = torch.empty(count, count, *shape, dtype=torch.float64)
    for i in range(count):
        for j in range(i + 1):
            flat = wide[i].dim() == 1
            product = torch.dot(wide[i], wide[j]) if flat else (wide[i] * wide[j]).sum(dim=dim)
            products[i, j] = products[j, i] = product
    return products


# All exponent bits set: infinity and NaN. F8_E4M3 has no infinity, and one NaN.
_INFINITY = {"F64": 0x7FF0 << 48, "F32": 0x7F80 << 16, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C, "F8_E4M3": 0x7F}


def first_nonfinite(flat: Tensor, dtype: str) -> int | None:
    """The index of the first NaN or infinity, from the bits as they will be written; None if all are finite."""
    import numpy as np
    import torch

    if dtype not in _INFINITY or not flat.numel():
        return None
    bits = flat.view(getattr(torch, f"int{flat.element_size() * 8}")).numpy()
    magnitude = np.bitwise_and(bits, bits.dtype.type(2 ** (8 * flat.element_size() - 1) - 1))
    limit = bits.dtype.type(_INFINITY[dtype])
    return int(np.argmax(magnitude >= limit)) if magnitude.max() >= limit else None
